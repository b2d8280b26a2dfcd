package gate

import (
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/internal/egress"
	"epiphyte/internal/flow"
	"epiphyte/internal/policy"
	"epiphyte/internal/shard"
	"epiphyte/internal/sniff"
)

const (
	// talksMost bounds the talks remembered at once. Beyond it, a random one gives way, and
	// its next datagram is decided anew.
	talksMost = 16 << 10
	// talkIdle is how long a talk is remembered without a datagram: as long as its mapping
	// and its server may be idle.
	talkIdle = 5 * time.Minute
	// quicMost bounds the talks whose hellos are kept, 256 kB each at most. Beyond it, the
	// oldest has to begin anew.
	quicMost = 128
)

// talks are the datagram exchanges of the guest's ports.
type talks struct {
	g      *Gate
	byDst  map[talkKey]*talk // by the address that the guest sends to
	byPeer map[talkKey]*talk // by the real address
	quic   []*talk           // with hellos, the oldest first
	timer  shard.Timer
}

// talkKey is both ends of datagrams; the ports of ICMP are zero.
type talkKey struct {
	proto    uint8
	src, dst netip.AddrPort
}

func keyOf(q policy.Request) talkKey { return talkKey{q.Proto, q.Src, q.Dst} }

// talk is the datagrams between a port of the guest and one address. It implements
// policy.Watch.
type talk struct {
	g       *Gate
	key     talkKey
	to      netip.AddrPort
	binding *egress.Binding // nil: the guest sends to the real address
	flow    egress.Flow
	request policy.Request
	used    time.Duration
	quic    *sniff.QUIC
	named   policy.Pending // for datagrams that wait until a hello is complete
	waits   int            // the connection of that hello; 0: none
}

// find returns the talk of a guest's datagram, nil if it begins one.
func (x *talks) find(q policy.Request) *talk {
	if q.Proto == unix.IPPROTO_TCP {
		return nil
	}
	t := x.byDst[keyOf(q)]
	if t != nil {
		t.used = x.g.cfg.Shard.Now()
	}
	return t
}

// begin remembers an allowed talk, and decides about its first datagram. b is the binding of
// its destination; nil: none.
func (x *talks) begin(q policy.Request, d policy.Decision, f egress.Flow, v egress.Verdict, b *egress.Binding) policy.Decision {
	if d.Action != policy.Allow {
		return d
	}
	t := &talk{g: x.g, key: keyOf(q), to: d.To, binding: b, flow: f, request: q, used: x.g.cfg.Shard.Now()}
	x.add(t)
	x.g.record(f, v, q, egress.Ending{})
	return t.decision()
}

// add remembers a talk.
func (x *talks) add(t *talk) {
	g := x.g
	if x.byDst == nil {
		x.byDst, x.byPeer = make(map[talkKey]*talk), make(map[talkKey]*talk)
	}
	if len(x.byDst) >= part(talksMost, g.cfg.Share) {
		for _, other := range x.byDst {
			x.forget(other)
			break
		}
	}
	x.byDst[t.key] = t
	x.byPeer[t.peer()] = t
	if t.binding != nil {
		g.names.Hold(t.binding)
	}
	if !g.cfg.Shard.Armed(&x.timer) {
		g.cfg.Shard.Arm(&x.timer, talkIdle, x)
	}
}

func (t *talk) peer() talkKey { return talkKey{t.key.proto, t.key.src, t.to} }

// decision is where the talk's datagrams go.
func (t *talk) decision() policy.Decision {
	d := policy.Decision{Action: policy.Allow, To: t.to}
	if t.key.proto == unix.IPPROTO_UDP {
		d.Watch, d.Pending = t, &t.named
	}
	return d
}

func (x *talks) forget(t *talk) {
	delete(x.byDst, t.key)
	if x.byPeer[t.peer()] == t {
		delete(x.byPeer, t.peer())
	}
	if t.binding != nil {
		x.g.names.Release(t.binding)
	}
	if t.quic != nil {
		x.quic = slices.DeleteFunc(x.quic, func(o *talk) bool { return o == t })
	}
	t.unread()
}

func (x *talks) forgetAll() {
	for _, t := range x.byDst {
		x.forget(t)
	}
}

// Run implements shard.Task for the timer: it forgets idle talks.
func (x *talks) Run() {
	now := x.g.cfg.Shard.Now()
	for _, t := range x.byDst {
		if now-t.used >= talkIdle {
			x.forget(t)
		}
	}
	if len(x.byDst) > 0 {
		x.g.cfg.Shard.Arm(&x.timer, talkIdle/4, x)
	}
}

// decideReply decides under which address the guest sees the sender of a datagram. It drops
// those from addresses that the guest has not sent to.
func (g *Gate) decideReply(q policy.Request) policy.Decision {
	src := netip.AddrPortFrom(q.Src.Addr().Unmap().WithZone(""), q.Src.Port())
	t := g.talks.byPeer[talkKey{q.Proto, q.Dst, src}]
	switch {
	case t == nil:
		return policy.Decision{}
	case t.binding == nil && t.key.dst == t.to:
		return g.cfg.Rules.Decide(q)
	}
	return policy.Decision{Action: policy.Allow, From: t.key.dst, To: q.Dst}
}

// unread forgets what has been read of QUIC, and drops the datagrams that wait for the rest:
// the next reader numbers connections from 1 again.
func (t *talk) unread() {
	t.quic, t.waits = nil, 0
	t.named.Resolve(policy.Decision{})
}

// Flow implements policy.Watch; a mapping has many talks.
func (t *talk) Flow(*flow.Flow, netip.AddrPort) {}

// Sees implements policy.Watch for a datagram: those that begin a QUIC connection wait until
// it has named its server.
func (t *talk) Sees(b []byte, _ bool) policy.Sight {
	if len(b) == 0 || b[0]&0x80 == 0 {
		return policy.Passed // no long header
	}
	const portHTTPS = 443
	if t.quic == nil {
		x := &t.g.talks
		if len(x.quic) == part(quicMost, t.g.cfg.Share) {
			x.quic[0].unread()
			x.quic = append(x.quic[:0], x.quic[1:]...)
		}
		t.quic = &sniff.QUIC{Strict: t.flow.Port == portHTTPS}
		x.quic = append(x.quic, t)
	}
	d := t.quic.Feed(b)
	if d.State == sniff.More {
		if t.waits != d.Connection {
			t.named.Resolve(policy.Decision{}) // of one connection at a time
			t.waits = d.Connection
		}
		return policy.Undecided
	}
	whole := t.waits != 0 && t.waits == d.Connection
	v, name := t.g.judgeSeen(t.flow, d.Result)
	if !v.Allow {
		t.g.count(v)
		t.g.record(t.flow, v, t.request, egress.Ending{Seen: name})
	}
	if v.Allow || t.g.passes(v) {
		if whole {
			t.waits = 0
			t.named.Resolve(policy.Decision{Action: policy.Allow, To: t.to})
		}
		return policy.Passed
	}
	t.waits = 0
	t.named.Resolve(policy.Decision{})
	return policy.Forbidden
}
