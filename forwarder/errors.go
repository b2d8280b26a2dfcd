package forwarder

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"

	"epiphyte/internal/sockio"
	"epiphyte/stack"
)

// refuse tells the guest why there is no connection, in the way in which a network
// would: by a RST where the peer said no, by ICMP in every other case.
func (f *Forwarder) refuse(syn *stack.SYN, errno unix.Errno) {
	switch errno {
	case unix.ECONNREFUSED, unix.ECONNRESET, unix.EPIPE: // the last two: it accepted, then changed its mind
		f.stack.SendReset(syn)
		return
	case unix.EPERM:
		errno = unix.ENETUNREACH // a firewall of the host, as libslirp reports it
	}
	if _, ok := stack.ICMPErrorFor(errno, syn.Dst.Addr().Is6()); !ok {
		errno = unix.EHOSTUNREACH
	}
	q := syn.Quote()
	f.tellError(errno, &q)
}

// tellError sends the guest the ICMP error for an errno, if there is one, from the
// gateway.
func (f *Forwarder) tellError(errno unix.Errno, q *stack.Quote) {
	if e, ok := stack.ICMPErrorFor(errno, q.Src.Is6()); ok {
		f.stack.SendICMPError(netip.Addr{}, e, q)
	}
}

// SendFailed implements sockio.DatagramOwner.
func (m *mapping) SendFailed(d *sockio.Datagram, errno unix.Errno) {
	if q, ok := m.quote(d.To.AddrPort(), d.Payload[0], d.Size()); ok {
		m.f.tellError(errno, &q)
	}
}

// passError passes an ICMP error that the host has received on to the guest as
// what it is: about the guest's own packet, from the router that sent it.
func (m *mapping) passError(e *sockio.QueuedError) {
	f := m.f
	q, ok := m.quote(e.To, e.Data, len(e.Data))
	if !ok {
		return
	}
	router, ok := m.seen(netip.AddrPortFrom(e.Offender, 0))
	if !ok || e.Offender.IsLinkLocalUnicast() || router.Addr() == m.record.Src.Addr() {
		router = netip.AddrPort{} // the guest would not believe that router: the gateway sends it
	}
	v6 := q.Src.Is6()
	told := stack.ICMPError{Type: e.Type, Code: e.Code, Pointer: e.Info}
	switch {
	case e.Errno == unix.EMSGSIZE && e.Info > 0:
		f.stack.SendTooBig(router.Addr(), int(e.Info), &q)
	case e.FromICMP() && told.Deliverable(v6):
		f.stack.SendICMPError(router.Addr(), told, &q)
	default:
		f.tellError(e.Errno, &q)
	}
}

// quote identifies the guest's own packet that was sent to the address to on the host,
// with a payload that begins with data and has size bytes in all. Of an echo request the
// payload is the ICMP message itself.
func (m *mapping) quote(to netip.AddrPort, data []byte, size int) (stack.Quote, bool) {
	seen, ok := m.seen(to)
	if !ok {
		return stack.Quote{}, false
	}
	q := stack.UDPQuote(m.record.Src, seen, size)
	if m.record.Proto != stack.ProtoUDP {
		q.Proto = m.record.Proto
		if copy(q.Transport[:], data) < len(q.Transport) {
			return stack.Quote{}, false
		}
		binary.BigEndian.PutUint16(q.Transport[4:], m.record.Src.Port())
	}
	return q, true
}
