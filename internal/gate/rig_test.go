package gate

import (
	"net/netip"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"epiphyte/internal/addressing/addressingtest"
	"epiphyte/internal/egress"
	"epiphyte/internal/flow"
	"epiphyte/internal/policy"
	"epiphyte/internal/shard"
	"epiphyte/internal/shard/shardtest"
)

// rig is a gate, a clock that a test moves, and a nameserver that answers when told.
type rig struct {
	*Gate
	t     testing.TB
	clock shardtest.Clock
	shard *shard.Shard
	table *flow.Table
	log   []egress.Record

	asked []asked
	zone  map[string][]string // records by name and type, as "a.example. A"; nil: nobody answers by itself
}

// asked is a question that waits for its answer.
type asked struct {
	query  dns.Msg
	stream bool
	reply  func([]byte)
}

func newRig(t testing.TB, text string, change ...func(*Config)) *rig {
	t.Helper()
	r := &rig{t: t}
	s, err := shard.New(shard.Config{Clock: &r.clock, Poller: new(shardtest.Poller)})
	if err != nil {
		t.Fatal(err)
	}
	r.shard, r.table = s, flow.New(s, flow.Limits{})
	rules := &policy.Rules{Plan: addressingtest.New(t)}
	cfg := Config{
		Rules: rules, IsOwn: rules.Plan.IsOwn, IPv6: true, Shard: s, Table: r.table, Policy: r.parse(text),
		IsHost: func(a netip.Addr) bool { return a == netip.MustParseAddr("192.0.2.1") },
		Log:    func(rec egress.Record) { r.log = append(r.log, rec) },
	}
	for _, f := range change {
		f(&cfg)
	}
	r.Gate = New(cfg)
	r.Attach(r)
	t.Cleanup(func() {
		r.Close()
		r.table.Close()
		s.Close()
	})
	return r
}

func (r *rig) parse(text string) *egress.Policy {
	r.t.Helper()
	p, err := egress.Parse(egress.Source{File: "policy", Text: text})
	if err != nil {
		r.t.Fatal(err)
	}
	return p
}

// pass has time pass, and what was due then happen.
func (r *rig) pass(d time.Duration) {
	r.t.Helper()
	r.clock.Advance(d)
	if err := r.shard.Turn(0); err != nil {
		r.t.Fatal(err)
	}
}

// Ask implements Resolver.
func (r *rig) Ask(query []byte, stream bool, reply func([]byte)) bool {
	a := asked{stream: stream, reply: reply}
	if err := a.query.Unpack(query); err != nil {
		r.t.Fatal(err)
	}
	if r.zone == nil {
		r.asked = append(r.asked, a)
		return true
	}
	r.answer(a)
	return true
}

// answer gives what the zone has.
func (r *rig) answer(a asked) {
	r.t.Helper()
	m := new(dns.Msg).SetReply(&a.query)
	q := a.query.Question[0]
	for _, s := range r.zone[q.Name+" "+dns.TypeToString[q.Qtype]] {
		rr, err := dns.NewRR(q.Name + " " + s)
		if err != nil {
			r.t.Fatal(err)
		}
		m.Answer = append(m.Answer, rr)
	}
	b, err := m.Pack()
	if err != nil {
		r.t.Fatal(err)
	}
	a.reply(b)
}

// answerAll has what was asked so far answered from a zone.
func (r *rig) answerAll(zone map[string][]string) {
	r.zone = zone
	waiting := r.asked
	r.asked = nil
	for _, a := range waiting {
		r.answer(a)
	}
}

// addr is the address that a name is answered with.
func (r *rig) addr(name string) netip.Addr {
	r.t.Helper()
	q, err := new(dns.Msg).SetQuestion(dns.Fqdn(name), dns.TypeA).Pack()
	if err != nil {
		r.t.Fatal(err)
	}
	b, ok := r.Answer(q, netip.AddrPort{}, false)
	var m dns.Msg
	if !ok || m.Unpack(b) != nil || len(m.Answer) != 1 {
		r.t.Fatalf("%s is answered with %x, %v", name, b, ok)
	}
	a, _ := netip.AddrFromSlice(m.Answer[0].(*dns.A).A.To4())
	return a
}

// out is what becomes of something from a port of the guest's.
func (r *rig) out(proto uint8, from uint16, to netip.AddrPort) policy.Decision {
	return r.Decide(policy.Request{
		Origin: flow.FromGuest, Proto: proto, Src: netip.AddrPortFrom(netip.MustParseAddr("10.0.2.100"), from), Dst: to,
	})
}

// back is as whom the guest sees a sender of datagrams to one of its ports.
func (r *rig) back(to uint16, from string) policy.Decision {
	return r.Decide(policy.Request{
		Origin: flow.FromGuest, Direction: policy.In, Proto: unix.IPPROTO_UDP,
		Src: netip.MustParseAddrPort(from), Dst: netip.AddrPortFrom(netip.MustParseAddr("10.0.2.100"), to),
	})
}

// owner is one of flows that notes its end.
type owner struct{ ended bool }

// End implements flow.Owner.
func (o *owner) End(flow.Reason) { o.ended = true }

// begin has a decision that allows a TCP connection become one.
func (r *rig) begin(d policy.Decision) *owner {
	r.t.Helper()
	if d.Action != policy.Allow || d.Watch == nil {
		r.t.Fatalf("%+v, want to be allowed and watched", d)
	}
	o := new(owner)
	f := &flow.Flow{Owner: o, Kind: flow.Conn, Proto: unix.IPPROTO_TCP, FD: -1}
	r.table.Add(f)
	d.Watch.Flow(f, d.To)
	return o
}
