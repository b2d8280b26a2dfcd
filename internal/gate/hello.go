package gate

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"epiphyte/internal/egress"
	"epiphyte/internal/flow"
	"epiphyte/internal/policy"
	"epiphyte/internal/sniff"
)

// watch follows one allowed flow: a TCP connection, or a client of a published port. It
// implements policy.Watch.
type watch struct {
	g       *Gate
	flow    egress.Flow
	verdict egress.Verdict
	request policy.Request
	record  *flow.Flow
	binding *egress.Binding // nil: the guest connects to the real address
	stream  sniff.Stream
	seen    string
}

// Flow implements policy.Watch.
func (w *watch) Flow(f *flow.Flow, to netip.AddrPort) {
	g := w.g
	if w.record != nil && w.record != f { // through another port of the same server
		other := *w
		other.record, other.binding = nil, nil
		other.Flow(f, to)
		return
	}
	if egress.IsSynthetic(w.request.Dst.Addr()) && !goesByProxy(w.verdict) { // a proxy's address says nothing
		w.flow.Addr = to.Addr()
		w.flow.Host, w.flow.Member = g.hosts.has(to.Addr(), g.cfg.Shard.Now()), g.isMember(to.Addr())
	}
	if w.record != nil {
		return
	}
	w.record = f
	f.Ended = w.ended
	if w.verdict.Rule != nil {
		f.Rule = w.verdict.Rule
	}
	if w.binding = g.names.Find(w.request.Dst.Addr()); w.binding != nil {
		g.names.Hold(w.binding)
	}
	g.watches[w] = struct{}{}
	if w.flow.Direction == egress.In {
		g.count(w.verdict)
		if w.flow.Proto == egress.UDP {
			g.sessions[keyOf(w.request)] = w
		}
	}
}

func (w *watch) ended(lasted time.Duration) {
	delete(w.g.watches, w)
	if w.binding != nil {
		w.g.names.Release(w.binding)
	}
	if w.g.sessions[keyOf(w.request)] == w {
		delete(w.g.sessions, keyOf(w.request))
	}
	if w.flow.Direction == egress.In && w.verdict.Allow && w.verdict.Rule == nil {
		return // else strangers' connections would crowd out the guest's own flows
	}
	w.g.record(w.flow, w.verdict, w.request, egress.Ending{Seen: w.seen, In: w.record.In, Out: w.record.Out, Duration: lasted})
}

// Sees implements policy.Watch.
func (w *watch) Sees(b []byte, last bool) policy.Sight {
	r := w.stream.Feed(b)
	if r.State == sniff.More {
		if !last {
			return policy.Undecided
		}
		r.State = sniff.Malformed
		const portHTTP = 80
		if w.stream.Protocol() != "tls" && w.flow.Port != portHTTP || len(b) == 0 && w.stream.Protocol() == "" {
			r.State = sniff.Other // it only looked like a request
		}
	}
	v, name := w.g.judgeSeen(w.flow, r)
	w.seen = name
	if v.Allow {
		return policy.Passed
	}
	w.verdict = v
	w.g.count(v)
	if w.g.passes(v) {
		return policy.Passed
	}
	return policy.Forbidden
}

// judgeSeen decides about the server that traffic on an allowed flow names. name is that
// name, if it is not the flow's.
func (g *Gate) judgeSeen(f egress.Flow, r sniff.Result) (v egress.Verdict, name string) {
	switch r.State {
	case sniff.Malformed:
		return egress.Verdict{Reason: egress.Unreadable}, ""
	case sniff.Nameless:
		return egress.Verdict{Allow: !g.policy.RequireSNI, Reason: egress.NoName}, ""
	case sniff.Other:
		return egress.Verdict{Allow: true}, ""
	}
	name, err := egress.Canonical(r.Name)
	if a, ok := literal(r.Name); ok {
		// Traffic that names the server by its address is for no other name.
		if f.Name == "" && a == f.Addr {
			return egress.Verdict{Allow: true}, ""
		}
		return egress.Verdict{Reason: egress.OtherName}, a.String()
	}
	if err != nil {
		return egress.Verdict{Reason: egress.Unreadable}, ""
	}
	if g.policy.Pin && f.Name != "" && name != f.Name && slices.Contains(g.pins.Names(f.Addr, g.cfg.Shard.Now()), name) {
		f.Name = name
	}
	if v = g.policy.DecideSeen(f, name); name == f.Name {
		name = ""
	}
	return v, name
}

// literal reads a name in the traffic that is an address. It drops the zone, which may be of
// any length.
func literal(name string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(strings.Trim(name, "[]"))
	return a.Unmap().WithZone(""), err == nil
}
