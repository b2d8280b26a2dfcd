package forwarder

import (
	"encoding/binary"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"

	"epiphyte/internal/sockio"
	"epiphyte/stack"
)

// errorsPerEvent bounds what one event makes us read; the queue is itself
// bounded by the socket's buffer.
const errorsPerEvent = 32

// readErrors takes the ICMP errors that the host's kernel has queued on the
// socket (ip(7), IP_RECVERR) and passes them on to the guest as what they are:
// about the guest's own packet, from the router that sent them.
func (m *mapping) readErrors() {
	var (
		name sockio.Addr
		oob  [256]byte
		data [64]byte
		iov  = sockio.Vec(data[:])
	)
	for range errorsPerEvent {
		h := unix.Msghdr{Iov: &iov, Iovlen: 1, Control: &oob[0]}
		name.Room(&h)
		h.SetControllen(len(oob))
		n, _, errno := unix.RawSyscall(unix.SYS_RECVMSG, uintptr(m.fd), uintptr(unsafe.Pointer(&h)), unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
		if errno != 0 {
			// An error without a message, as one of a plain socket call.
			socketError(m.fd)
			return
		}
		if e, ok := parseError(oob[:h.Controllen]); ok {
			m.passError(&e, name.AddrPort(), data[:n])
		}
	}
}

// socketErr is struct sock_extended_err and the offender behind it.
type socketErr struct {
	errno             unix.Errno
	origin, typ, code uint8
	info              uint32
	offender          netip.Addr
}

// parseError finds IP_RECVERR or IPV6_RECVERR among the control messages.
func parseError(b []byte) (e socketErr, ok bool) {
	msgs, err := unix.ParseSocketControlMessage(b)
	if err != nil {
		return e, false
	}
	for _, c := range msgs {
		v4 := c.Header.Level == unix.IPPROTO_IP && c.Header.Type == unix.IP_RECVERR
		v6 := c.Header.Level == unix.IPPROTO_IPV6 && c.Header.Type == unix.IPV6_RECVERR
		if !v4 && !v6 || len(c.Data) < 16 {
			continue
		}
		d := c.Data
		e = socketErr{
			errno:  unix.Errno(binary.NativeEndian.Uint32(d)),
			origin: d[4], typ: d[5], code: d[6],
			info: binary.NativeEndian.Uint32(d[8:]),
		}
		offender := sockio.AddrFromBytes(d[16:])
		e.offender = offender.AddrPort().Addr()
		return e, true
	}
	return e, false
}

// passError tells the guest. to is where the packet was sent, data its
// beginning.
func (m *mapping) passError(e *socketErr, to netip.AddrPort, data []byte) {
	f := m.f
	q, ok := m.quote(to, data, len(data))
	if !ok {
		return
	}
	router, ok := f.rules.TranslateSource(e.offender)
	if !ok || e.offender.IsLinkLocalUnicast() {
		router = netip.Addr{} // the gateway speaks for it
	}
	switch {
	case e.origin == unix.SO_EE_ORIGIN_ICMP && e.typ == 11, e.origin == unix.SO_EE_ORIGIN_ICMP6 && e.typ == 3:
		f.stack.SendUnreachable(router, stack.TimeExceeded, &q)
	case e.errno == unix.EMSGSIZE && e.info > 0:
		f.stack.SendTooBig(router, int(e.info), &q)
	default:
		f.tellUnreachable(e.errno, router, &q)
	}
}
