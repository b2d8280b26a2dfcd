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

// watch accompanies one flow that was allowed: a TCP connection, or a client of a
// published port. It implements policy.Watch.
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
	if w.record != nil && w.record != f { // by another port of the same server
		other := *w
		other.record, other.binding = nil, nil
		other.Flow(f, to)
		return
	}
	if egress.IsSynthetic(w.request.Dst.Addr()) && !goesByProxy(w.verdict) { // whose address tells nothing
		w.flow.Addr = to.Addr()
		w.flow.Host, w.flow.Member = g.hosts.has(to.Addr(), g.cfg.Shard.Now()), g.isMember(to.Addr())
	}
	if w.record != nil {
		return
	}
	w.record = f
	f.Ended = w.ended
	if w.binding = g.names.Find(w.request.Dst.Addr()); w.binding != nil {
		g.names.Hold(w.binding)
	}
	g.watches[w] = struct{}{}
	if w.flow.Direction == egress.In {
		g.count(w.verdict)
		if w.flow.Proto == egress.UDP {
			g.sessions[w.key()] = w
		}
	}
}

func (w *watch) key() talkKey { return talkKey{w.request.Proto, w.request.Src, w.request.Dst} }

func (w *watch) ended(lasted time.Duration) {
	delete(w.g.watches, w)
	if w.binding != nil {
		w.g.names.Release(w.binding)
	}
	if w.g.sessions[w.key()] == w {
		delete(w.g.sessions, w.key())
	}
	if w.flow.Direction == egress.In && w.verdict.Allow && w.verdict.Rule == nil {
		return // or strangers that knock would crowd out what the guest does
	}
	w.g.record(w.flow, w.verdict, w.request, egress.Record{Seen: w.seen, In: w.record.In, Out: w.record.Out, Duration: lasted.Seconds()})
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

// judgeSeen decides about what traffic on an allowed flow names. name is that, if it is
// another than the flow's.
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
		// A server that is asked by its address has no name to be taken for.
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

// literal is the address that a name in the traffic is, without its zone, which may be of
// any length.
func literal(name string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(strings.Trim(name, "[]"))
	return a.Unmap().WithZone(""), err == nil
}
