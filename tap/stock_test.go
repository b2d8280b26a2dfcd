package tap

import (
	"encoding/binary"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/internal/shard"
)

// What is sent to us is not believed.
func TestAgent_ChecksSockets(t *testing.T) {
	tcp := func(family int) int {
		fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fd) })
		return fd
	}
	a := new(Agent)
	if err := a.check(tcp(unix.AF_INET), &stock{family: unix.AF_INET}); err != nil {
		t.Errorf("a fresh socket: %v", err)
	}
	bound, listening := tcp(unix.AF_INET), tcp(unix.AF_INET)
	if err := errors.Join(unix.Bind(bound, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(listening, 1)); err != nil {
		t.Fatal(err)
	}
	udp, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(udp)
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll(pair[:])
	file, err := unix.Open("/dev/null", unix.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(file)
	blocking, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(blocking)
	for name, fd := range map[string]int{
		"of the other family": tcp(unix.AF_INET6), "bound": bound, "listening": listening,
		"UDP": udp, "local": pair[0], "a file": file, "blocking": blocking,
	} {
		if a.check(fd, &stock{family: unix.AF_INET}) == nil {
			t.Errorf("a socket is accepted that is %s", name)
		}
	}
}

// fakeAgent is an agent whose child is the test: it answers what answer says.
func fakeAgent(t *testing.T, size int, answer func(order [orderLen]byte, sock int)) *Agent {
	t.Helper()
	ours, theirs, err := socketPair()
	if err != nil {
		t.Fatal(err)
	}
	s, err := shard.New(shard.Config{})
	if err != nil {
		t.Fatal(err)
	}
	a, err := AdoptAgent(AdoptConfig{FD: ours, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(ours)
	a.stocks[v4].size, a.stocks[v6].size = size, size
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer unix.Close(theirs)
		for {
			var order [orderLen]byte
			if n, err := unix.Read(theirs, order[:]); err != nil || n != orderLen {
				return
			}
			answer(order, theirs)
		}
	}()
	t.Cleanup(func() {
		if err := errors.Join(a.Close(), s.Close()); err != nil {
			t.Error(err)
		}
		<-ended
	})
	if err := a.Attach(s); err != nil {
		t.Fatal(err)
	}
	return a
}

// turns runs the shard until done.
func turns(t *testing.T, a *Agent, done func() bool) {
	t.Helper()
	for begun := time.Now(); !done(); {
		if err := a.shard.Turn(10 * time.Millisecond); err != nil || time.Since(begun) > patience {
			t.Fatal("it did not come to that", err)
		}
	}
}

// respond answers an order with that many sockets, or an error.
func respond(t *testing.T, sock int, order [orderLen]byte, n int, errno unix.Errno) {
	t.Helper()
	var fds []int
	for range n {
		fd, err := unix.Socket(int(order[0]), unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Error(err)
			return
		}
		defer unix.Close(fd)
		fds = append(fds, fd)
	}
	answer := [reportLen]byte{1: order[0], 2: order[2], 3: order[3]}
	binary.LittleEndian.PutUint16(answer[4:], uint16(errno))
	var rights []byte
	if n > 0 {
		rights = unix.UnixRights(fds...)
	}
	if err := unix.Sendmsg(sock, answer[:], rights, nil, unix.MSG_NOSIGNAL); err != nil && err != unix.EPIPE {
		t.Error(err)
	}
}

// B8: where the kernel has no IPv6 it is not asked for it again and again.
func TestB8_AgentWithoutIPv6(t *testing.T) {
	var asked atomic.Int32
	a := fakeAgent(t, 1, func(order [orderLen]byte, sock int) {
		if order[0] == unix.AF_INET6 {
			asked.Add(1)
			respond(t, sock, order, 0, unix.EAFNOSUPPORT)
		} else {
			respond(t, sock, order, 1, 0)
		}
	})
	if err := a.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		a.Socket(unix.AF_INET6, func(fd int) bool {
			if fd >= 0 {
				t.Error("a socket for IPv6")
			}
			return false
		})
		got := -1
		a.Socket(unix.AF_INET, func(fd int) bool { got = fd; return true })
		turns(t, a, func() bool { return got >= 0 && len(a.stocks[v4].ready) == 1 })
		unix.Close(got)
	}
	if a.shard.Armed(&a.timer) || asked.Load() != 1 {
		t.Errorf("asked for IPv6 %d times, and again later: %v", asked.Load(), a.shard.Armed(&a.timer))
	}
}

// Where descriptors have run out clients are told so at once, and the agent is
// asked again a while later.
func TestAgent_OutOfDescriptors(t *testing.T) {
	var out atomic.Bool
	a := fakeAgent(t, 1, func(order [orderLen]byte, sock int) {
		if out.Load() {
			respond(t, sock, order, 0, unix.EMFILE)
		} else {
			respond(t, sock, order, 1, 0)
		}
	})
	if err := a.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	out.Store(true)
	var got []int
	take := func(fd int) bool { got = append(got, fd); return true }
	a.Socket(unix.AF_INET, take)
	a.Socket(unix.AF_INET, take) // waits for the answer
	turns(t, a, func() bool { return len(got) == 2 })
	a.Socket(unix.AF_INET, take)
	if len(got) != 3 || got[0] < 0 || got[1] >= 0 || got[2] >= 0 {
		t.Errorf("sockets %d, want one and two refusals", got)
	}
	unix.Close(got[0])
	out.Store(false)
	turns(t, a, func() bool { return len(a.stocks[v4].ready) == 1 })
}

// An agent that sends more than was ordered is the guest's, and gone.
func TestAgent_SendsTooMuch(t *testing.T) {
	a := fakeAgent(t, 2, func(order [orderLen]byte, sock int) { respond(t, sock, order, 3, 0) })
	if err := a.Wait(t.Context()); err == nil || a.sock >= 0 {
		t.Errorf("it is believed: %v", err)
	}
	refused := false
	a.Socket(unix.AF_INET, func(fd int) bool { refused = fd < 0; return false })
	if !refused {
		t.Error("a client is not refused")
	}
}

// What a predecessor has ordered is for nobody, and does not pass for an answer to us,
// whenever it comes.
func TestAgent_AnswersToAPredecessor(t *testing.T) {
	var stale atomic.Int32
	a := fakeAgent(t, 2, func(order [orderLen]byte, sock int) {
		for _, n := range []int{0, 3} { // more than we have ordered, too
			of := order
			of[2]++
			respond(t, sock, of, n, 0)
			stale.Add(1)
		}
		respond(t, sock, order, 2, 0)
	})
	if err := a.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	turns(t, a, func() bool { return len(a.stocks[v4].ready) == 2 && len(a.stocks[v6].ready) == 2 })
	if stale.Load() != 4 {
		t.Errorf("%d answers were a predecessor's, want 4", stale.Load())
	}
}

// The clients that wait for an agent that does not answer are bounded.
func TestAgent_BoundsWaiting(t *testing.T) {
	stopped := make(chan struct{})
	a := fakeAgent(t, 1, func([orderLen]byte, int) { <-stopped })
	defer close(stopped)
	refused := 0
	for range maxWaiting + 10 {
		a.Socket(unix.AF_INET, func(int) bool { refused++; return false })
	}
	if refused != 10 {
		t.Errorf("%d clients are refused, want 10", refused)
	}
}
