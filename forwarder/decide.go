package forwarder

import (
	"net/netip"

	"epiphyte/internal/flow"
	"epiphyte/internal/policy"
	"epiphyte/stack"
)

// decide asks about a packet of the guest.
func (f *Forwarder) decide(proto uint8, src, dst netip.AddrPort) policy.Decision {
	return f.cfg.Policy.Decide(policy.Request{
		Guest: f.cfg.Guest, Direction: policy.Out, Origin: flow.FromGuest, Proto: proto, Src: src, Dst: dst,
	})
}

// seenBy is the address and port under which the guest's end of a flow sees a peer
// of the host, and whether it may see it.
func (f *Forwarder) seenBy(guest netip.AddrPort, proto uint8, peer netip.AddrPort) (netip.AddrPort, bool) {
	d := f.cfg.Policy.Decide(policy.Request{
		Guest: f.cfg.Guest, Direction: policy.In, Origin: flow.FromGuest, Proto: proto, Src: peer, Dst: guest,
	})
	return d.From, d.Action == policy.Allow
}

// hold keeps a copy of a packet until its decision is there. One for which there is
// no room is lost.
func (f *Forwarder) hold(p *stack.Packet, pending *policy.Pending, then func(*stack.Packet, policy.Decision)) {
	size := len(p.Head) + len(p.Tail)
	if !f.backlog.Room(size) {
		return // before anything is allocated
	}
	kept := *p
	kept.Head, kept.Tail = append(append(make([]byte, 0, size), p.Head...), p.Tail...), nil
	kept.Fresh = false // what is queued later has no Flush to wait for
	f.backlog.Hold(pending, size, func(d policy.Decision) { then(&kept, d) })
}
