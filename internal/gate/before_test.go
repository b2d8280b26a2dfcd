package gate

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"epiphyte/internal/flow"
	"epiphyte/internal/policy"
)

// published is the owner of a session, which knows its client.
type published struct {
	owner
	client netip.AddrPort
}

func (p *published) Client() netip.AddrPort { return p.client }

// olderRig is a gate that comes to a guest with flows under way: two connections, one of each
// direction, datagrams to 203.0.113.1 and .2, and a client of a published UDP port that the
// guest sees as the gateway. There is a connection of another guest, too.
type olderRig struct {
	*rig
	conns   [2]owner
	other   owner
	session *published
}

func newOlderRig(t *testing.T, text string) *olderRig {
	r := &olderRig{session: &published{client: netip.MustParseAddrPort("198.51.100.7:7")}}
	guest := netip.MustParseAddrPort("10.0.2.100:80")
	r.rig = newRig(t, text, func(cfg *Config) {
		for _, f := range []*flow.Flow{
			{Owner: &r.conns[0], Kind: flow.Conn, Proto: unix.IPPROTO_TCP},
			{Owner: &r.conns[1], Kind: flow.Client, Origin: flow.FromPublished, Proto: unix.IPPROTO_TCP},
			{Owner: &r.other, Kind: flow.Conn, Proto: unix.IPPROTO_TCP, Guest: &flow.Guest{Name: "other"}},
			{Owner: r.session, Kind: flow.Session, Origin: flow.FromPublished, Proto: unix.IPPROTO_UDP,
				Src: guest, Remote: netip.MustParseAddrPort("10.0.2.2:7")},
		} {
			f.FD = -1
			cfg.Table.Add(f)
		}
		cfg.Before = NewBefore(1)
		for _, to := range []string{"203.0.113.1:5000", "203.0.113.2:5000"} {
			cfg.Before.Note(policy.Request{
				Origin: flow.FromGuest, Proto: unix.IPPROTO_UDP, Src: netip.MustParseAddrPort("10.0.2.100:1"), Dst: netip.MustParseAddrPort(to),
			}, cfg.Shard.Now())
		}
	})
	return r
}

// in is what becomes of a datagram of a client of the published port.
func (r *olderRig) in(client netip.AddrPort) policy.Action {
	return r.Decide(policy.Request{
		Origin: flow.FromPublished, Direction: policy.In, Proto: unix.IPPROTO_UDP, Src: client, Dst: netip.MustParseAddrPort("10.0.2.100:80"),
	}).Action
}

// wantTalk wants the guest's port 1 to exchange datagrams with a peer, or not to be heard.
func (r *olderRig) wantTalk(peer string, goesOn bool) {
	r.t.Helper()
	if d := r.back(1, peer); (d.Action == policy.Allow) != goesOn {
		r.t.Errorf("an answer of %s: %+v", peer, d)
	}
	if d := r.out(unix.IPPROTO_UDP, 1, netip.MustParseAddrPort(peer)); (d.Action == policy.Allow) != goesOn {
		r.t.Errorf("a datagram to %s: %+v", peer, d)
	}
}

// TestOlderFlowsAreKept: what a guest has under way when it gets its first policy goes on,
// datagrams in both directions included, and nothing else does.
func TestOlderFlowsAreKept(t *testing.T) {
	r := newOlderRig(t, "allow 203.0.113.2\nallow in from 192.0.2.0/24\n")
	for _, peer := range []string{"203.0.113.1:5000", "203.0.113.2:5000"} {
		r.wantTalk(peer, true)
	}
	if r.in(r.session.client) != policy.Allow {
		t.Error("a client of a published port is refused")
	}
	for _, peer := range []string{"203.0.113.1:5001", "203.0.113.3:5000"} {
		r.wantTalk(peer, false)
	}
	if r.in(netip.MustParseAddrPort("198.51.100.7:8")) == policy.Allow || r.out(unix.IPPROTO_UDP, 2, netip.MustParseAddrPort("203.0.113.1:5000")).Action == policy.Allow {
		t.Error("a new flow is allowed")
	}
	if r.conns[0].ended || r.conns[1].ended || r.session.ended {
		t.Errorf("ended: %v, %v", r.conns, r.session.ended)
	}
	r.pass(talkIdle)
	r.wantTalk("203.0.113.1:5000", false)
}

// TestOlderFlowsEnd: the first policy that says flows kill ends them, whether it is the
// guest's first one or comes later.
func TestOlderFlowsEnd(t *testing.T) {
	const text = "allow 203.0.113.2\nallow in from 192.0.2.0/24\nflows kill\n"
	later := newOlderRig(t, "allow 203.0.113.9\n")
	later.Set(later.parse(text))
	for what, r := range map[string]*olderRig{"first": newOlderRig(t, text), "later": later} {
		if !r.conns[0].ended || !r.conns[1].ended || !r.session.ended || len(r.older) > 0 {
			t.Errorf("%s: ended: %v, %v; %d are left", what, r.conns, r.session.ended, len(r.older))
		}
		if r.other.ended {
			t.Errorf("%s: another guest's connection has ended", what)
		}
		if r.in(r.session.client) == policy.Allow {
			t.Errorf("%s: a client of a published port goes on", what)
		}
		r.wantTalk("203.0.113.1:5000", false)
		if d := r.out(unix.IPPROTO_UDP, 1, netip.MustParseAddrPort("203.0.113.2:5000")); d.Action != policy.Allow {
			t.Errorf("%s: what is allowed: %+v", what, d)
		}
	}
}

// TestBeforeIsBounded: a guest without a policy makes it remember no more than a gate would.
func TestBeforeIsBounded(t *testing.T) {
	b := NewBefore(talksMost / 4)
	for port := range uint16(100) {
		b.Note(policy.Request{Proto: unix.IPPROTO_UDP, Src: netip.AddrPortFrom(netip.MustParseAddr("10.0.2.100"), port)}, 0)
	}
	if len(b.used) != 4 {
		t.Errorf("%d are remembered", len(b.used))
	}
}
