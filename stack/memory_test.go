package stack_test

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"epiphyte/internal/shard/shardtest"
	"epiphyte/stack"
)

// zeros is a descriptor that never runs out of bytes.
func zeros(t *testing.T) int {
	t.Helper()
	fd, err := unix.Open("/dev/zero", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// fill writes n bytes at a time until the send buffer is full, and returns how often
// that was.
func (k *talk) fill(fd, n int) (writes int) {
	k.t.Helper()
	for {
		written, errno := k.conn.WriteFrom(fd, n)
		if errno == unix.EAGAIN {
			return writes
		}
		if errno != 0 || written == 0 {
			k.t.Fatalf("write %d bytes: %d, %v", n, written, errno)
		}
		if writes++; writes > 1<<20 {
			k.t.Fatalf("the send buffer takes a million writes of %d bytes", n)
		}
	}
}

// take has the guest receive what was sent, and returns how many bytes that is.
func (k *talk) take() (bytes int) {
	for _, f := range k.dev.Sent() {
		if p, err := f.Parse(); err == nil {
			bytes += len(p.Payload) - int(p.Payload[12]>>4)*4
		}
	}
	k.ack += uint32(bytes)
	return bytes
}

// B17: single bytes that the guest does not acknowledge cost bounded memory, and when
// it has, the connection is as fast as before.
func TestB17_SmallWritesCountWhatTheyCost(t *testing.T) {
	fd := zeros(t)
	k := newTalk(t, guest4, remote4)
	before := heap()
	writes := k.fill(fd, 1)
	if held := heap() - before; held > 1<<20 || writes < 50 {
		t.Errorf("%d single bytes hold %d bytes of memory", writes, held)
	}
	k.turn(0)
	told := false
	k.conn.SetNotify(func(r stack.Readiness) { told = told || r&stack.Writable != 0 })
	for read := k.take(); read < writes; read += k.take() {
		k.feedData(k.seq, nil)
		k.turn(0)
	}
	k.feedData(k.seq, nil)
	k.turn(0)
	if !told {
		t.Fatal("nobody is told that the guest has read")
	}
	if bytes := k.fill(fd, stack.MaxWrite) * stack.MaxWrite; bytes < 1<<20 {
		t.Errorf("the send buffer takes %d bytes when all was acknowledged", bytes)
	}
}

// B17: one-byte segments out of order, the same again and again, are given up before
// they cost more than the receive buffer.
func TestB17_OutOfOrderCountsWhatItCosts(t *testing.T) {
	k := newTalk(t, guest4, remote4)
	before := heap()
	for range 5000 {
		k.feedData(k.seq+100, []byte{1})
		k.dev.Sent()
	}
	const receiveBuffer = 1 << 20
	if held := heap() - before; held > receiveBuffer {
		t.Errorf("segments out of order hold %d bytes, the receive buffer has %d", held, receiveBuffer)
	}
	k.say(pattern(101, 1))
	if got := len(k.read(200)); got != 101 {
		t.Errorf("%d bytes were read when the gap was filled, want 101", got)
	}
}

// B17: connections that were closed while their guest does not read stay within the
// budget, and make room for new ones.
func TestB17_ClosedConnectionsCount(t *testing.T) {
	const budget, conns = 8 << 20, 300
	fd := zeros(t)
	clock := new(shardtest.Clock)
	s := newSeam(t, seamConfig{clock: clock, buffers: budget})
	before := heap()
	for i := range conns {
		k := s.talk(clock, netip.AddrPortFrom(guest4.Addr(), uint16(10_000+i)), remote4)
		k.fill(fd, stack.MaxWrite)
		k.conn.CloseWrite()
		k.conn.Close()
		k.turn(0)
		k.dev.Sent()
	}
	// Closed ones receive nothing: there is the send buffer alone, and what a
	// connection costs without buffers.
	if held, most := heap()-before, budget+conns*(64<<10+16<<10); held > most {
		t.Errorf("%d closed connections hold %d bytes, want %d at most", conns, held, most)
	}
	k := s.talk(clock, guest4, remote4)
	if bytes := k.fill(fd, 4096) * 4096; bytes <= 64<<10 {
		t.Errorf("a new connection may send %d bytes, the minimum: closed ones have the rest", bytes)
	}
}
