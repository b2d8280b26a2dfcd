// Package repair continues TCP connections that another endpoint has begun, by sockets in
// repair mode (TCP_REPAIR).
//
// # Theory of operation
//
// A connection of a guest whose other end is not a socket, but the stack's endpoint or another
// guest behind the bridge, can be given a socket of the guest's own namespace as its other end:
// Restore has the socket continue where the stack.Frozen says. In repair mode a socket sends
// nothing, also when it is closed, so it can be tried and thrown away. What routes the guest's
// segments to it, and takes it out of repair mode, is the agent (package tap).
//
// Invariants: what the guest has sent up to RecvNext has arrived. What may have arrived at the
// guest, and it has not acknowledged, is Unacknowledged: otherwise it acknowledges more than the
// socket has sent, and the kernel drops all that it sends.
//
// Timers: none.
//
// What it does not do: it makes no sockets, and restores no queue of received data.
package repair

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"

	"epiphyte/internal/sockio"
	"epiphyte/stack"
)

// Queues of a socket in repair mode (TCP_REPAIR_QUEUE, linux/tcp.h).
const (
	noQueue = iota
	receiveQueue
	sendQueue
)

// Kinds of TCP options (TCP_REPAIR_OPTIONS), RFC 9293 section 3.2, RFC 7323, RFC 2018.
const (
	optionMSS        = 2
	optionWindow     = 3
	optionSACK       = 4
	optionTimestamps = 8
)

// Occupied reports whether the guest's end of a connection is a socket of the namespace that may
// use any interface, so that a second one cannot take its place: fd, of that namespace and in
// repair mode, is of no use afterwards. Connections of a container in the guest, or of a
// program that is bound to the device, have none there, and cannot be continued by a socket.
func Occupied(fd int, guest, outside netip.AddrPort) bool {
	var from, to sockio.Addr
	from.Set(guest)
	to.Set(outside)
	if sockio.Bind(fd, &from) != 0 {
		return false
	}
	errno := sockio.Connect(fd, &to)
	if errno == 0 {
		// At once, and not when the last copy of fd is closed: until then it takes what comes for
		// a socket that is bound to the device.
		sockio.Disconnect(fd)
	}
	return errno == unix.EADDRNOTAVAIL
}

// Answered reports whether a socket has received a segment. One that resets it is an answer, too:
// the guest's program has ended the connection.
func Answered(fd int) bool {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	return err == nil && info.Segs_in > 0
}

// Restore makes fd, a bound socket in repair mode, the outer end of a frozen connection. In
// repair mode connect sends nothing. The kernel's rules are in do_tcp_setsockopt,
// net/ipv4/tcp.c.
//
// The socket is one byte behind. As soon as it is out of repair mode a byte has to be sent that
// the guest has already: the guest's kernel answers to data at once, and then sends what it could
// not send while nothing was routed. To a segment without data it answers only now and then
// (tcp_oow_rate_limited), and goes on when its timer fires, after 200 ms. Resume comes next.
func Restore(fd int, f *stack.Frozen) error {
	// The guest acknowledges all that it has, and its kernel's segments are dropped until the
	// socket has sent that much. So it must be able to: it begins one byte behind, and its window
	// is one less (repairWindow).
	size := max(1, int(f.MSS)-timestampSize)
	if 1+(len(f.Unacknowledged)+size-1)/size > initialWindow || int(f.SendWindow) < len(f.Unacknowledged)+2 {
		return unix.ENOBUFS
	}
	// Connect takes the size of segments from here, and not from the options that are restored
	// after it. The first segment whose window is the largest yet (repairWindow) has the kernel
	// look at these.
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_MAXSEG, min(int(f.MSS), maxSegment)); err != nil {
		return err
	}
	for _, o := range [...]struct{ name, value int }{
		{unix.TCP_REPAIR_QUEUE, sendQueue}, {unix.TCP_QUEUE_SEQ, int(int32(f.SendNext - 1))},
		{unix.TCP_REPAIR_QUEUE, receiveQueue}, {unix.TCP_QUEUE_SEQ, int(int32(f.RecvNext))},
		{unix.TCP_REPAIR_QUEUE, noQueue},
	} {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, o.name, o.value); err != nil {
			return err
		}
	}
	var to sockio.Addr
	to.Set(f.Guest)
	if errno := sockio.Connect(fd, &to); errno != 0 {
		return errno
	}
	if err := unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR_OPTIONS, string(repairOptions(f))); err != nil {
		return err
	}
	if f.Timestamps {
		// The lowest bit says that the unit is a microsecond (Linux 6.7).
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_TIMESTAMP, int(int32((f.Timestamp+3)&^1))); err != nil {
			return err
		}
	}
	return unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR_WINDOW, string(repairWindow(f)))
}

const (
	// initialWindow is how many segments a socket sends before the first is acknowledged
	// (TCP_INIT_CWND).
	initialWindow = 10
	// maxSegment is the largest size that TCP_MAXSEG takes (MAX_TCP_WINDOW).
	maxSegment = 32767
	// timestampSize is what timestamps take of each segment, padded (RFC 7323 appendix A).
	timestampSize = 12
)

// Resume sends what the guest has not acknowledged.
func Resume(fd int, f *stack.Frozen) error {
	if len(f.Unacknowledged) == 0 {
		return nil
	}
	n, err := unix.Write(fd, f.Unacknowledged)
	if err == nil && n < len(f.Unacknowledged) {
		err = unix.ENOBUFS
	}
	return err
}

// repairOptions encodes what the handshake negotiated, as struct tcp_repair_opt.
func repairOptions(f *stack.Frozen) (b []byte) {
	add := func(kind, value uint32) {
		b = binary.NativeEndian.AppendUint32(binary.NativeEndian.AppendUint32(b, kind), value)
	}
	add(optionMSS, uint32(f.MSS))
	add(optionWindow, uint32(f.SendScale)|uint32(f.RecvScale)<<16)
	if f.SACK {
		add(optionSACK, 0)
	}
	if f.Timestamps {
		add(optionTimestamps, 0)
	}
	return b
}

// repairWindow encodes struct tcp_repair_window: snd_wl1, snd_wnd, max_window, rcv_wnd, rcv_wup.
// The guest's window is one byte less than it is, so that its first segment shows the largest one
// yet (tcp_ack_update_window).
func repairWindow(f *stack.Frozen) (b []byte) {
	send := max(f.SendWindow, 1) - 1
	for _, v := range [...]uint32{f.RecvNext, send, send, f.RecvWindow, f.RecvNext} {
		b = binary.NativeEndian.AppendUint32(b, v)
	}
	return b
}
