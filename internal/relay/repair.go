package relay

import (
	"encoding/binary"

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

// restore makes fd, a bound socket in repair mode, the outer end of a frozen connection. In
// repair mode connect sends nothing. The kernel's rules are in do_tcp_setsockopt,
// net/ipv4/tcp.c.
func restore(fd int, f *stack.Frozen) error {
	for _, o := range [...]struct{ name, value int }{
		{unix.TCP_REPAIR_QUEUE, sendQueue}, {unix.TCP_QUEUE_SEQ, int(int32(f.SendNext))},
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
func repairWindow(f *stack.Frozen) (b []byte) {
	for _, v := range [...]uint32{f.RecvNext, f.SendWindow, f.SendWindow, f.RecvWindow, f.RecvNext} {
		b = binary.NativeEndian.AppendUint32(b, v)
	}
	return b
}
