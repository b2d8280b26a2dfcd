package stack_test

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"epiphyte/internal/shard/shardtest"
	"epiphyte/internal/testnet"
	"epiphyte/stack"
)

// talk is an established connection of a seam, whose guest is written by hand.
type talk struct {
	*seam
	clock         *shardtest.Clock
	conn          *stack.Conn
	guest, remote netip.AddrPort
	seq, ack      uint32 // of the guest
}

func newTalk(t *testing.T, guest, remote netip.AddrPort) *talk {
	clock := new(shardtest.Clock)
	return newSeam(t, seamConfig{clock: clock}).talk(clock, guest, remote)
}

// talk has the guest connect.
func (s *seam) talk(clock *shardtest.Clock, guest, remote netip.AddrPort) *talk {
	s.t.Helper()
	k := &talk{seam: s, clock: clock, guest: guest, remote: remote, seq: 1000}
	k.feed(testnet.TCP(guest, remote, header.TCPFlagSyn, k.seq, 0, nil))
	k.stack.Accept(k.syns[0], func(c *stack.Conn, errno unix.Errno) { k.conn = c })
	sent := k.sent()
	if len(sent) != 1 {
		s.t.Fatalf("%d frames answer a SYN", len(sent))
	}
	k.seq++
	k.ack = binary.BigEndian.Uint32(sent[0].Payload[4:]) + 1
	k.say(nil)
	if k.conn == nil {
		s.t.Fatal("the handshake is not done")
	}
	return k
}

// say has the guest send data and returns the acknowledgement numbers that it is
// sent for it, while the shard has other things to do.
func (k *talk) say(data []byte) []uint32 {
	k.t.Helper()
	k.feedData(k.seq, data)
	k.seq += uint32(len(data))
	return k.told()
}

func (k *talk) feedData(seq uint32, data []byte) {
	k.dev.Inject(testnet.TCP(k.guest, k.remote, header.TCPFlagAck, seq, k.ack, data))
	k.run()
}

// told returns the acknowledgement number of each segment sent since the last
// call.
func (k *talk) told() (acks []uint32) {
	k.t.Helper()
	for _, p := range k.sent() {
		acks = append(acks, binary.BigEndian.Uint32(p.Payload[8:]))
	}
	return acks
}

// turn lets the shard go on; one that may sleep does.
func (k *talk) turn(wait time.Duration) {
	k.t.Helper()
	if err := k.shard.Turn(wait); err != nil {
		k.t.Fatal(err)
	}
}

func (k *talk) want(what string, got []uint32, want ...uint32) {
	k.t.Helper()
	if len(got) != len(want) {
		k.t.Fatalf("%s: acknowledged %v, want %v", what, got, want)
	}
	for i := range want {
		if got[i] != want[i] {
			k.t.Fatalf("%s: acknowledged %v, want %v", what, got, want)
		}
	}
}

// The acknowledgement of a request rides on the answer.
func TestAckRidesOnTheAnswer(t *testing.T) {
	families(t, func(t *testing.T, guest, remote netip.AddrPort) {
		k := newTalk(t, guest, remote)
		var fds [2]int
		if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fds[0])
		defer unix.Close(fds[1])
		for range 3 {
			k.want("request", k.say([]byte("question")))
			unix.Write(fds[1], []byte("answer"))
			if n, errno := k.conn.WriteFrom(fds[0], 6); n != 6 || errno != 0 {
				t.Fatal(n, errno)
			}
			k.ack += 6
			k.want("answer", k.told(), k.seq)
			k.turn(-1)
			k.want("after the answer", k.told())
		}
		k.want("last request", k.say([]byte("question")))
		k.conn.CloseWrite()
		k.want("FIN", k.told(), k.seq)
		k.turn(-1)
		k.want("after the FIN", k.told())
	})
}

// Without an answer it leaves before the shard sleeps, with the second segment,
// or when its time is over.
func TestAckDoesNotWaitForLong(t *testing.T) {
	families(t, func(t *testing.T, guest, remote netip.AddrPort) {
		k := newTalk(t, guest, remote)
		k.want("request", k.say([]byte("x")))
		k.turn(-1)
		k.want("before sleeping", k.told(), k.seq)

		k.want("first segment", k.say([]byte("x")))
		k.want("second segment", k.say([]byte("x")), k.seq)
		k.turn(-1)
		k.want("after both", k.told())

		k.want("to a busy shard", k.say([]byte("x")))
		k.turn(0)
		k.want("within the time", k.told())
		k.clock.Advance(time.Millisecond)
		k.turn(0)
		k.want("after the time", k.told(), k.seq)
	})
}

// What tells of a loss does not wait.
func TestAckOfALossDoesNotWait(t *testing.T) {
	families(t, func(t *testing.T, guest, remote netip.AddrPort) {
		k := newTalk(t, guest, remote)
		k.feedData(k.seq+4, []byte("late"))
		k.want("behind a gap", k.told(), k.seq)
		k.feedData(k.seq, []byte("gap "))
		k.turn(-1)
		got := k.told()
		if len(got) == 0 || got[len(got)-1] != k.seq+8 {
			t.Fatalf("acknowledged %v after the gap, want %d", got, k.seq+8)
		}
	})
}

// Nor does what follows a large batch: a stream gains nothing by waiting.
func TestAckOfALargeBatchDoesNotWait(t *testing.T) {
	families(t, func(t *testing.T, guest, remote netip.AddrPort) {
		k := newTalk(t, guest, remote)
		batch := func(frames, size int) []uint32 {
			for range frames {
				k.dev.Inject(testnet.TCP(k.guest, k.remote, header.TCPFlagAck, k.seq, k.ack, make([]byte, size)))
				k.seq += uint32(size)
			}
			k.run()
			return k.told()
		}
		for _, frames := range []int{2, 3} {
			batch(64, 1) // batches grow with what waits
			k.turn(-1)
			k.told()
			got := batch(frames, 40_000)
			if frames == 2 {
				k.want("a small batch", got)
			} else {
				k.want("a large batch", got, k.seq)
			}
			k.turn(-1)
		}
	})
}

// A reset takes the place of what waits, and nothing is sent after it.
func TestAckEndsWithItsConnection(t *testing.T) {
	k := newTalk(t, guest4, remote4)
	k.want("request", k.say([]byte("x")))
	k.conn.Abort()
	sent := k.sent()
	if len(sent) != 1 || sent[0].TCPFlags()&header.TCPFlagRst == 0 {
		t.Fatalf("%d segments, want a reset", len(sent))
	}
	k.turn(-1)
	if sent := k.sent(); len(sent) > 0 {
		t.Errorf("%d segments after the reset", len(sent))
	}
}
