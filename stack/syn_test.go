package stack_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"epiphyte/internal/testnet"
	"epiphyte/stack"
)

// synFrames are the ways in which a SYN with data may come.
func synFrames(guest, remote netip.AddrPort, data []byte) map[string]func(*seam) {
	whole := testnet.TCP(guest, remote, header.TCPFlagSyn, 1000, 0, data)
	start, typ := 14+20, uint8(testnet.GSOTCPv4)
	if guest.Addr().Is6() {
		start, typ = 14+40, testnet.GSOTCPv6
	}
	super := bytes.Clone(whole)
	binary.BigEndian.PutUint16(super[start+16:], testnet.PseudoSum(guest.Addr(), remote.Addr(), unix.IPPROTO_TCP, 20+len(data)))
	return map[string]func(*seam){
		"whole": func(s *seam) { s.dev.Inject(whole) },
		"super-segment": func(s *seam) {
			s.dev.InjectVNet(testnet.VNetHdr{
				Flags: testnet.NeedsCsum, GSOType: typ, GSOSize: 1400, CsumStart: uint16(start), CsumOffset: 16,
			}, super)
		},
		"fragments": func(s *seam) {
			q := testnet.Packet{Src: guest.Addr(), Dst: remote.Addr(), Proto: unix.IPPROTO_TCP, ID: 9, Payload: whole[start:]}
			for _, f := range q.Fragments(1280) {
				s.dev.Inject(f)
			}
		},
	}
}

// TestB13_SYNWithData: a SYN may carry data (RFC 7413) of any size. It opens the
// connection; the data is not acknowledged, and arrives when it is sent again. A
// refusal acknowledges all of it.
func TestB13_SYNWithData(t *testing.T) {
	families(t, func(t *testing.T, guest, remote netip.AddrPort) {
		for _, size := range []int{1, 1400, 2008, 2009, 2028, 2029, 9000, 60_000} {
			data := pattern(size, 13)
			for name, inject := range synFrames(guest, remote, data) {
				t.Run(fmt.Sprintf("%d bytes, %s", size, name), func(t *testing.T) {
					k := &talk{seam: newSeam(t, seamConfig{device: testnet.DeviceConfig{Offload: true}}), guest: guest, remote: remote}
					inject(k.seam)
					k.run()
					if len(k.syns) != 1 || k.handled() != 1 {
						t.Fatalf("%d SYNs of %d packets were handed on, want one", len(k.syns), k.handled())
					}
					k.stack.SendReset(k.syns[0])
					if acks := k.told(); len(acks) != 1 || acks[0] != uint32(1001+size) {
						t.Errorf("the reset acknowledges %d, want %d", acks, 1001+size)
					}
					k.stack.Accept(k.syns[0], func(c *stack.Conn, _ unix.Errno) { k.conn = c })
					sent := k.sent()
					if len(sent) != 1 || binary.BigEndian.Uint32(sent[0].Payload[8:]) != 1001 {
						t.Fatalf("the SYN is answered by %+v, want an acknowledgement of 1001", sent)
					}
					k.seq, k.ack = 1001, binary.BigEndian.Uint32(sent[0].Payload[4:])+1
					k.say(nil)
					if k.conn == nil {
						t.Fatal("the handshake is not done")
					}
					k.say(data)
					k.turn(0)
					var iov [64]unix.Iovec
					if _, n, errno := k.conn.Peek(iov[:]); n != size || errno != 0 {
						t.Errorf("%d bytes arrived, want %d: %v", n, size, errno)
					}
				})
			}
		}
	})
}

// A SYN with data counts only with the checksum of all of it.
func TestB13_SYNWithWrongData(t *testing.T) {
	families(t, func(t *testing.T, guest, remote netip.AddrPort) {
		s := newSeam(t, seamConfig{})
		for _, size := range []int{10, 5000} {
			frame := testnet.TCP(guest, remote, header.TCPFlagSyn, 1, 0, pattern(size, 1))
			frame[len(frame)-1] ^= 1
			s.silent(fmt.Sprintf("%d bytes", size), frame)
		}
	})
}
