package stack_test

import (
	"net/netip"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"epiphyte/internal/addressing/addressingtest"
	"epiphyte/internal/shard"
	"epiphyte/internal/shard/shardtest"
	"epiphyte/internal/testnet"
	"epiphyte/stack"
)

// treadmill is a device from which the same frame comes again and again.
type treadmill struct {
	frame         []byte
	left, written int
}

func (d *treadmill) FD() int                  { return 1 }
func (d *treadmill) VNetHdr() bool            { return false }
func (d *treadmill) Offload() bool            { return false }
func (d *treadmill) USO() bool                { return false }
func (d *treadmill) HardwareAddr() [6]byte    { return testnet.GuestMAC() }
func (d *treadmill) next() (f []byte, _ bool) { d.left--; return d.frame, d.left >= 0 }

func (d *treadmill) Readv(iov []unix.Iovec) (int, unix.Errno) {
	f, ok := d.next()
	if !ok {
		return -1, unix.EAGAIN
	}
	n := 0
	for i := range iov {
		n += copy(unsafe.Slice(iov[i].Base, iov[i].Len), f[n:])
	}
	return n, 0
}

func (d *treadmill) Writev([]unix.Iovec) (int, unix.Errno) { d.written++; return 0, 0 }

// mirror sends every datagram back, and refuses every connection.
type mirror struct {
	s   *stack.Stack
	udp int
}

func (m *mirror) ICMP(*stack.Packet) {}
func (m *mirror) Flush()             {}
func (m *mirror) SYN(y *stack.SYN) {
	q, prohibited := y.Quote(), stack.ICMPError{Type: 3, Code: 13}
	m.s.SendICMPError(netip.Addr{}, prohibited, &q)
	m.s.SendReset(y)
}
func (m *mirror) UDP(p *stack.Packet) {
	m.udp++
	m.s.SendUDP(remote4, guest4, p.Head[8:], p.Tail)
}

// A datagram through the stack and back, an echo answered by it, and a connection refused in
// either way cost no allocation.
func TestNoAllocationPerPacket(t *testing.T) {
	for name, frame := range map[string][]byte{
		"SYN":  testnet.SYN(guest4, remote4, 1000),
		"UDP":  testnet.UDP(guest4, remote4, testnet.TTL, pattern(1000, 1)),
		"echo": testnet.ICMP(guest4.Addr(), addressingtest.New(t).Gateway, 8, 0, append([]byte("\x00\x01\x00\x01"), pattern(56, 1)...)),
		"ARP":  testnet.ARP(1, testnet.GuestMAC(), guest4.Addr(), [6]byte{}, addressingtest.New(t).Gateway),
	} {
		t.Run(name, func(t *testing.T) {
			dev, poller := &treadmill{frame: frame}, new(shardtest.Poller)
			sh, err := shard.New(shard.Config{Poller: poller, Clock: new(shardtest.Clock)})
			if err != nil {
				t.Fatal(err)
			}
			defer sh.Close()
			m := &mirror{}
			if m.s, err = stack.New(stack.Config{Device: dev, Shard: sh, Plan: addressingtest.New(t), Handler: m}); err != nil {
				t.Fatal(err)
			}
			defer m.s.Close()
			step := func() {
				dev.left = 8
				for dev.left > 0 {
					poller.Ready(dev.FD(), unix.EPOLLIN)
					if err := sh.Turn(0); err != nil {
						t.Fatal(err)
					}
				}
			}
			for range 50 {
				step()
			}
			poller.Waits()
			dev.written = 0
			if n := testing.AllocsPerRun(100, step); n > 0 {
				t.Errorf("%v allocations for 8 packets", n)
			}
			if dev.written < 800 {
				t.Errorf("%d answers to 800 packets", dev.written)
			}
		})
	}
}
