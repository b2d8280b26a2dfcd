package forwarder

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"

	"epiphyte/internal/sockio"
	"epiphyte/stack"
)

// Echo requests leave by ping sockets (SOCK_DGRAM with IPPROTO_ICMP, Linux
// 3.0), which users may open whose group is in net.ipv4.ping_group_range. The
// kernel replaces the identifier by one of its own and hands each socket only its
// own replies, so there is one socket per guest address and id. Where the group is
// not in the range, a raw socket serves, if we may open one (rawecho.go).

const (
	icmpEchoRequest   = 8
	icmpEchoReply     = 0
	icmpv6EchoRequest = 128
	icmpv6EchoReply   = 129
)

func isEchoRequest(p *stack.Packet) bool { return isEchoRequestType(p.Proto, p.Head[0]) }

func isEchoRequestType(proto, typ uint8) bool {
	return proto == stack.ProtoICMP && typ == icmpEchoRequest || proto == stack.ProtoICMPv6 && typ == icmpv6EchoRequest
}

func (f *Forwarder) sendEcho(p *stack.Packet, to netip.Addr) {
	id := binary.BigEndian.Uint16(p.Head[4:])
	m, errno := f.mapping(p.Proto, netip.AddrPortFrom(p.Src, id))
	if errno != 0 {
		if refusesPing(errno) {
			f.explainPing()
		}
		return
	}
	d := sockio.Datagram{Payload: [2][]byte{p.Head, p.Tail}, TTL: ttlBeyond(p)}
	d.To.Set(netip.AddrPortFrom(to, 0))
	m.record.Out += uint64(d.Size())
	m.sendsTo(p.Dst, to)
	s := &m.socket
	if m.raw != nil {
		s = &m.raw.socket
		setIdentifier(p, m.rawID)
	}
	if d.Source, errno = f.cfg.Source.Way(s.FD, to); errno != 0 {
		m.SendFailed(&d, errno)
		return
	}
	f.cfg.Batch.Send(&s.DatagramSocket, &d) // at once: ping measures the time until the reply
}

// refusesPing reports whether an errno of socket(2) means that we may not have the
// socket.
func refusesPing(errno unix.Errno) bool { return errno == unix.EACCES || errno == unix.EPERM }

// explainPing says once why ping does not work and how to change that.
func (f *Forwarder) explainPing() {
	if f.pingRefused {
		return
	}
	f.pingRefused = true
	f.cfg.Logger.Warn("ping to the outside does not work: the kernel refuses ping sockets to this user's groups, and raw ones",
		"remedy", `as root: sysctl -w net.ipv4.ping_group_range="0 2147483647"`)
}

// receiveEcho sends a reply to the guest under the guest's own identifier,
// with the TTL that it arrived with, less our hop.
func (m *mapping) receiveEcho(from netip.AddrPort, data, control []byte) {
	want := byte(icmpEchoReply)
	if m.record.Proto == stack.ProtoICMPv6 {
		want = icmpv6EchoReply
	}
	if len(data) < 8 || data[0] != want {
		return
	}
	seen, ok := m.seen(from)
	if !ok {
		return
	}
	ttl := uint8(stack.DefaultTTL)
	if v, ok := receivedTTL(control); ok && v > 1 {
		ttl = v - 1
	}
	binary.BigEndian.PutUint16(data[4:], m.record.Src.Port())
	m.f.stack.SendICMP(seen.Addr(), m.record.Src.Addr(), ttl, data)
}

// receivedTTL finds IP_TTL or IPV6_HOPLIMIT among the control messages.
func receivedTTL(b []byte) (uint8, bool) {
	d := sockio.FindControl(b, unix.IPPROTO_IP, unix.IP_TTL)
	if d == nil {
		d = sockio.FindControl(b, unix.IPPROTO_IPV6, unix.IPV6_HOPLIMIT)
	}
	if len(d) < 4 {
		return 0, false
	}
	return uint8(binary.NativeEndian.Uint32(d)), true
}
