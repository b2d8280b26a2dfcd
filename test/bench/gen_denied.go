package main

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"

	"epiphyte/internal/testnet"
)

const (
	// deniedFrames are made before, so that what is measured is not the sender. Each is of
	// another flow.
	deniedFrames = 8192
	deniedBatch  = 64 // frames of one system call
)

// mmsghdr is that of sendmmsg(2).
type mmsghdr struct {
	unix.Msghdr
	_ [8]byte // msg_len, and what the next one's alignment wants
}

// runDenied writes frames to the guest's interface as its root can, without pause: requests
// for connections and datagrams to anywhere. It counts those that its kernel took.
func runDenied(_ load, p *page, _ int) error {
	link, err := net.InterfaceByName(tapName)
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0) // protocol 0: it receives nothing
	if err != nil {
		return fmt.Errorf("open packet socket: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: link.Index}); err != nil {
		return fmt.Errorf("bind packet socket: %w", err)
	}
	var iov [deniedFrames]unix.Iovec
	var msgs [deniedFrames]mmsghdr
	for i := range iov {
		frame := deniedFrame([6]byte(link.HardwareAddr), i)
		iov[i].Base = &frame[0]
		iov[i].SetLen(len(frame))
		msgs[i].Iov = &iov[i]
		msgs[i].SetIovlen(1)
	}
	p.ready.Add(1)
	for i := 0; ; i = (i + deniedBatch) % deniedFrames {
		n, e := raw6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&msgs[i])), deniedBatch, 0, 0, 0)
		switch e {
		case 0:
			p.sent.Add(uint64(n))
		case unix.ENOBUFS: // the device's queue is full
			p.errors.Add(1)
		default:
			return failed("send frames", n, e)
		}
	}
}

// deniedFrame is a frame from the guest's own addresses.
func deniedFrame(mac [6]byte, i int) []byte {
	rng := rand.New(rand.NewPCG(12, uint64(i)))
	src := netip.AddrPortFrom(netip.MustParseAddr(slirpGuest), uint16(1024+i))
	dst := netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, byte(rng.IntN(256)), byte(rng.IntN(256))}), uint16(1024+rng.IntN(60000)))
	frame := testnet.SYN(src, dst, 1000)
	if i%2 == 0 {
		frame = testnet.UDP(src, dst, 64, []byte("flood"))
	}
	copy(frame[6:], mac[:])
	return frame
}
