package stack_test

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"epiphyte/internal/testnet"
	"epiphyte/stack"
)

// inOneBatch lets the stack read the frames as one batch, which it makes large only
// when more than one frame has been waiting for a while.
func (s *seam) inOneBatch(frames ...[]byte) []testnet.Packet {
	s.t.Helper()
	for range 100 {
		s.dev.Inject(testnet.UDP(guest4, remote4, testnet.TTL, []byte("busy")))
	}
	s.run()
	s.sent()
	flushes := s.flushes
	sent := s.feed(frames...)
	if n := s.flushes - flushes; n > 2 { // a last one may find nothing
		s.t.Errorf("%d frames were %d batches", len(frames), n)
	}
	return sent
}

// TestB12_PortsAreFreeAfterAReset: a SYN is judged by what the segments before it
// have made of the connection, also where the stack reads them at once.
func TestB12_PortsAreFreeAfterAReset(t *testing.T) {
	const ack, push, rst = header.TCPFlagAck, header.TCPFlagAck | header.TCPFlagPsh, header.TCPFlagRst | header.TCPFlagAck
	for name, c := range map[string]struct {
		before []header.TCPFlags // segments in the SYN's batch
		behind uint32            // of the first one's sequence number, where the guest is
		opens  bool
	}{
		"a SYN after a reset":              {before: []header.TCPFlags{rst}, opens: true},
		"after data and a reset":           {before: []header.TCPFlags{push, push, rst}, opens: true},
		"after a reset and more":           {before: []header.TCPFlags{rst, ack}, opens: true},
		"of an open connection":            {},
		"of an open connection with data":  {before: []header.TCPFlags{push}},
		"after a reset outside the window": {before: []header.TCPFlags{rst}, behind: 1 << 30},
	} {
		t.Run(name, func(t *testing.T) {
			families(t, func(t *testing.T, guest, remote netip.AddrPort) {
				k := newTalk(t, guest, remote)
				gone := 0
				k.conn.SetNotify(func(r stack.Readiness) {
					if r&stack.Gone != 0 {
						gone++
					}
				})
				var frames [][]byte
				seq := k.seq - c.behind
				for _, flags := range c.before {
					var data []byte
					if flags&header.TCPFlagPsh != 0 {
						data = []byte("data")
					}
					frames = append(frames, testnet.TCP(guest, remote, flags, seq, k.ack, data))
					seq += uint32(len(data))
				}
				k.seq = seq + 1<<20
				frames = append(frames, testnet.TCP(guest, remote, header.TCPFlagSyn, k.seq, 0, nil))
				for _, p := range k.inOneBatch(frames...) {
					if header.TCPFlags(p.Payload[13])&header.TCPFlagRst != 0 && c.opens && binary.BigEndian.Uint32(p.Payload[8:]) == k.seq+1 {
						t.Error("the SYN was refused")
					}
				}
				if got := len(k.syns) == 1; got != c.opens {
					t.Fatalf("%d SYNs were handed on, want it: %v", len(k.syns), c.opens)
				}
				if !c.opens {
					if gone > 0 || k.conn.Failed() {
						t.Error("the connection has ended")
					}
					return
				}
				k.reopen()
				if gone != 1 || k.stack.Conns() != 1 {
					t.Errorf("the old connection ended %d times, and there are %d", gone, k.stack.Conns())
				}
			})
		})
	}
}

// reopen accepts the last SYN and sends data by the new connection.
func (k *talk) reopen() {
	k.t.Helper()
	k.conn = nil
	k.stack.Accept(k.syns[0], func(c *stack.Conn, _ unix.Errno) { k.conn = c })
	// gVisor answers a stray segment of the old connection by a reset, from a goroutine of its
	// own, which is nothing to a guest that has sent a SYN.
	sent := slices.DeleteFunc(k.sent(), func(p testnet.Packet) bool { return header.TCPFlags(p.Payload[13]) == header.TCPFlagRst })
	if len(sent) != 1 || header.TCPFlags(sent[0].Payload[13]) != header.TCPFlagSyn|header.TCPFlagAck {
		k.t.Fatalf("a SYN is answered by %+v", sent)
	}
	k.seq++
	k.ack = binary.BigEndian.Uint32(sent[0].Payload[4:]) + 1
	k.say(nil)
	k.say([]byte("new"))
	k.turn(0)
	if k.conn == nil {
		k.t.Fatal("the handshake is not done")
	}
	var iov [4]unix.Iovec
	if _, n, errno := k.conn.Peek(iov[:]); n != 3 || errno != 0 {
		k.t.Errorf("%d bytes arrived: %v", n, errno)
	}
}
