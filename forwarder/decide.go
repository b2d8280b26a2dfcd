package forwarder

import (
	"net/netip"

	"epiphyte/internal/flow"
	"epiphyte/internal/policy"
	"epiphyte/stack"
)

// decide asks the policy about a packet from the guest.
func (f *Forwarder) decide(proto uint8, src, dst netip.AddrPort) policy.Decision {
	return f.counted(f.cfg.Policy.Decide(policy.Request{
		Guest: f.cfg.Guests.Of(src.Addr()), Direction: policy.Out, Origin: flow.FromGuest, Proto: proto, Src: src, Dst: dst,
	}))
}

// counted counts a decision that forbids what the guest sends, and returns it.
func (f *Forwarder) counted(d policy.Decision) policy.Decision {
	if d.Action == policy.Refuse || d.Action == policy.Drop {
		f.cfg.Table.Forbidden(d.Action == policy.Refuse)
	}
	return d
}

// seen is the address and port under which the guest sees a peer of the mapping's
// socket, and whether it may see it.
func (m *mapping) seen(peer netip.AddrPort) (netip.AddrPort, bool) {
	guest := m.record.Src
	if m.record.Proto != stack.ProtoUDP {
		guest = netip.AddrPortFrom(guest.Addr(), 0) // an echo identifier is no port
	}
	q := policy.Request{
		Guest: m.record.Guest, Direction: policy.In, Origin: flow.FromGuest, Proto: m.record.Proto, Src: peer, Dst: guest,
	}
	if peer.Addr() == m.led {
		q.Asked = m.asked
	}
	d := m.f.cfg.Policy.Decide(q)
	return d.From, d.Action == policy.Allow
}

// hold keeps a copy of a packet until the decision about it. Without room in the
// backlog the packet is lost.
func (f *Forwarder) hold(p *stack.Packet, pending *policy.Pending, then func(*stack.Packet, policy.Decision)) {
	guest, size := f.cfg.Guests.Of(p.Src), len(p.Head)+len(p.Tail)
	if !f.backlog.Room(guest, size) {
		return // before anything is allocated
	}
	kept := *p
	kept.Head, kept.Tail = append(append(make([]byte, 0, size), p.Head...), p.Tail...), nil
	kept.Fresh = false // no Flush follows the decision, so it is sent at once
	f.backlog.Hold(guest, pending, size, func(d policy.Decision) { then(&kept, f.counted(d)) })
}
