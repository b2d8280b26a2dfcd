package gate

import (
	"math/rand/v2"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/internal/egress"
	"epiphyte/internal/flow"
	"epiphyte/internal/policy"
	"epiphyte/internal/shard"
)

// Resolver asks nameservers; see dns.Resolver.Ask.
type Resolver interface {
	Ask(query []byte, stream bool, reply func(response []byte)) bool
}

// Config of a Gate. Fields may be nil only where they say so.
type Config struct {
	Rules policy.Decider        // what addresses mean
	IsOwn func(netip.Addr) bool // whether an address stands for the host in the plan
	// IsMember reports whether an address can be another member's of the guest's network;
	// nil: it has no neighbours.
	IsMember func(netip.Addr) bool
	Policy   *egress.Policy
	IPv6     bool // the guest has it
	Shard    *shard.Shard
	Table    *flow.Table
	// Log takes records; nil: nobody reads them.
	Log func(egress.Record)
	// IsHost reports whether an address is the host's own; nil: the kernel is asked.
	IsHost func(netip.Addr) bool
	// Memory is shared by the gates of one guest, one for each of its workers; nil: the
	// gate has its own.
	Memory *Memory
	// Share is how many gates share the limits; zero: one.
	Share int
	// Guest is whose flows these are, of which some may be under way already; nil in a process
	// with one guest. Before has its datagrams so far; nil: there were none.
	Guest  *flow.Guest
	Before *Before
}

// Memory is shared by the gates of a guest: a name that one of them has answered leads to the
// same place in all.
type Memory struct {
	names egress.Names
	pins  egress.Pins
}

// NewMemory makes a memory with room for one of share parts of what a process may remember.
func NewMemory(share int) *Memory {
	m := new(Memory)
	m.names.Max, m.pins.Max = part(egress.MaxNames, share), part(egress.MaxPins, share)
	// So that a guest's address from a memory that is gone, that of a killed process,
	// hardly ever stands for another name here.
	m.names.Skip(rand.Uint32())
	return m
}

// part is the part of a limit that one of share gates has.
func part(limit, share int) int { return max(1, limit/max(1, share)) }

// Gate implements policy.Decider. All of it belongs to the shard's thread.
type Gate struct {
	cfg       Config
	policy    *egress.Policy
	resolver  Resolver // nil: no name leads anywhere
	names     *egress.Names
	pins      *egress.Pins
	questions egress.Questions
	hosts     hostAddrs
	look      lookups
	talks     talks
	recorder  egress.Recorder
	flush     shard.Timer
	watches   map[*watch]struct{}
	older     map[*flow.Flow]struct{} // connections from before the gate, which nothing watches
	sessions  map[talkKey]*watch      // of clients of published UDP ports, from the client to the guest
	counts    Counts
	closed    bool
}

// Counts are how often rules have decided since the policy came into force.
type Counts struct {
	Rules   []uint64 // by egress.Rule.ID
	Default uint64   // decided by none, and allowed
	Denied  uint64   // in all
}

// Add adds the counts of another gate under the same policy.
func (c *Counts) Add(o Counts) {
	if c.Rules == nil {
		c.Rules = make([]uint64, len(o.Rules))
	}
	for i := range min(len(c.Rules), len(o.Rules)) {
		c.Rules[i] += o.Rules[i]
	}
	c.Default += o.Default
	c.Denied += o.Denied
}

// New makes a gate.
func New(cfg Config) *Gate {
	g := &Gate{
		cfg: cfg, policy: cfg.Policy,
		watches: make(map[*watch]struct{}), older: make(map[*flow.Flow]struct{}), sessions: make(map[talkKey]*watch),
	}
	if cfg.Memory == nil {
		cfg.Memory = NewMemory(cfg.Share)
	}
	g.names, g.pins = &cfg.Memory.names, &cfg.Memory.pins
	g.questions = egress.Questions{Names: g.names, Pins: g.pins, IPv6: cfg.IPv6}
	g.hosts.ask = cfg.IsHost
	if g.hosts.ask == nil {
		g.hosts.ask = isHost
	}
	g.look.g = g
	g.talks.g = g
	g.recorder.Write = cfg.Log
	g.adopt()
	g.Set(cfg.Policy)
	return g
}

// Set replaces the policy. Flows that were allowed go on, unless the new policy says flows
// kill and denies them. Connections from before the gate end under any such policy: their
// servers' names are not known, nor all clients of published ports.
func (g *Gate) Set(p *egress.Policy) {
	g.policy = p
	g.counts = Counts{Rules: make([]uint64, len(p.Rules()))}
	if p.KillFlows {
		g.endDenied()
	}
}

// endDenied ends the flows that the policy denies.
func (g *Gate) endDenied() {
	for w := range g.watches {
		if v := g.policy.Decide(w.flow); !v.Allow && !g.passes(v) {
			w.verdict = v
			g.cfg.Table.End(w.record)
		}
	}
	g.talks.forgetAll() // the next datagram of each is decided anew
	if g.policy.Learn {
		return
	}
	for f := range g.older {
		g.cfg.Table.End(f)
	}
}

// Attach sets the resolver that looks up real addresses.
func (g *Gate) Attach(r Resolver) { g.resolver = r }

// Policy is the one in force.
func (g *Gate) Policy() *egress.Policy { return g.policy }

// Counts are those of the policy in force.
func (g *Gate) Counts() Counts {
	c := g.counts
	c.Rules = append([]uint64(nil), c.Rules...)
	return c
}

// Close stops the timers. Flows that still wait will be refused.
func (g *Gate) Close() {
	g.closed = true
	g.talks.forgetAll()
	g.cfg.Shard.Disarm(&g.flush)
	g.cfg.Shard.Disarm(&g.talks.timer)
	if g.recorder.Write != nil {
		g.recorder.Flush()
	}
}

// Decide implements policy.Decider.
func (g *Gate) Decide(q policy.Request) policy.Decision {
	switch {
	case q.Origin == flow.FromExposed:
		return g.cfg.Rules.Decide(q)
	case q.Origin == flow.FromPublished:
		return g.decideIn(q)
	case q.Direction == policy.In:
		return g.decideReply(q)
	}
	if t := g.talks.find(q); t != nil {
		return t.decision() // what was allowed goes on
	}
	j := g.judge(q)
	switch {
	case j.decision.Action != policy.Allow:
		return j.decision
	case !j.verdict.Allow && !g.passes(j.verdict):
		return g.act(q, j.decision, j.flow, j.verdict)
	case goesByProxy(j.verdict):
		return g.decideProxy(q, j.flow, j.verdict)
	case j.binding != nil:
		return g.decideName(q, j.flow, j.binding)
	}
	d := g.act(q, j.decision, j.flow, j.verdict)
	if q.Proto != unix.IPPROTO_TCP {
		return g.talks.begin(q, d, j.flow, j.verdict, nil)
	}
	return d
}

func (g *Gate) isMember(a netip.Addr) bool { return g.cfg.IsMember != nil && g.cfg.IsMember(a) }

func protoOf(proto uint8) egress.Proto {
	switch proto {
	case unix.IPPROTO_TCP:
		return egress.TCP
	case unix.IPPROTO_UDP:
		return egress.UDP
	}
	return egress.ICMP
}

// act turns a verdict into a decision, and records it if it refuses the flow.
func (g *Gate) act(q policy.Request, d policy.Decision, f egress.Flow, v egress.Verdict) policy.Decision {
	g.count(v)
	if !v.Allow && !g.passes(v) {
		g.record(f, v, q, egress.Ending{})
		return policy.Decision{Action: policy.Refuse, Errno: unix.EACCES}
	}
	if q.Proto == unix.IPPROTO_TCP {
		d.Watch = &watch{g: g, flow: f, verdict: v, request: q}
	}
	return d
}

func (g *Gate) passes(v egress.Verdict) bool { return g.policy.Passes(v) }

func (g *Gate) count(v egress.Verdict) {
	switch {
	case v.Rule != nil && v.Rule.ID < len(g.counts.Rules):
		g.counts.Rules[v.Rule.ID]++
	case v.Allow:
		g.counts.Default++
	}
	if !v.Allow {
		g.counts.Denied++
	}
}

// decideIn decides about a client of a published port.
func (g *Gate) decideIn(q policy.Request) policy.Decision {
	d := g.cfg.Rules.Decide(q)
	if d.Action != policy.Allow {
		return d
	}
	if w := g.sessions[keyOf(q)]; w != nil {
		d.Watch = w // what was allowed goes on
		return d
	}
	f := g.flowIn(q)
	v := g.policy.Decide(f)
	if !v.Allow && !g.passes(v) {
		g.count(v)
		g.record(f, v, q, egress.Ending{})
		return policy.Decision{Action: policy.Refuse, Errno: unix.ECONNREFUSED}
	}
	d.Watch = &watch{g: g, flow: f, verdict: v, request: q} // counted once it is a flow
	return d
}

// flowIn is a client of a published port as policies see it.
func (g *Gate) flowIn(q policy.Request) egress.Flow {
	f := egress.Flow{Direction: egress.In, Proto: protoOf(q.Proto), Addr: q.Src.Addr().Unmap().WithZone(""), Port: q.Dst.Port()}
	f.Host = f.Addr.IsLoopback() || g.hosts.has(f.Addr, g.cfg.Shard.Now())
	return f
}

// record records a verdict, with what is known of the flow's end.
func (g *Gate) record(f egress.Flow, v egress.Verdict, q policy.Request, end egress.Ending) {
	if g.recorder.Write == nil {
		return
	}
	e := egress.Event{Time: time.Now(), Flow: f, Verdict: v, Learned: !v.Allow && g.passes(v), Source: q.Src, Ending: end}
	if f.Direction == egress.In {
		e.Source, e.Server = netip.AddrPortFrom(f.Addr, q.Src.Port()), q.Dst
	}
	if q.Guest != nil {
		e.Guest = q.Guest.Name
	}
	g.write(e)
}

func (g *Gate) write(e egress.Event) {
	if due := g.recorder.Add(e, g.cfg.Shard.Now()); due > 0 && !g.cfg.Shard.Armed(&g.flush) {
		g.cfg.Shard.ArmAt(&g.flush, due, shard.TaskFunc(g.recorder.Flush))
	}
}
