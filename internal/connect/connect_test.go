package connect

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/internal/shard"
	"epiphyte/internal/shard/shardtest"
	"epiphyte/internal/sockio"
	"epiphyte/internal/testnet"
)

// rig is a shard with a real poller, and a clock that moves when told.
type rig struct {
	t     *testing.T
	clock *shardtest.Clock
	shard *shard.Shard
	told  []unix.Errno
}

func newRig(t *testing.T) *rig {
	t.Helper()
	testnet.CheckLeaks(t)
	r := &rig{t: t, clock: new(shardtest.Clock)}
	var err error
	if r.shard, err = shard.New(shard.Config{Clock: r.clock}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.shard.Close() })
	return r
}

// attempt is one whose outcome the rig notes; it is closed with the test.
func (r *rig) attempt() *Attempt {
	a := &Attempt{Socket: None(), Shard: r.shard, Done: func(errno unix.Errno) { r.told = append(r.told, errno) }}
	r.t.Cleanup(a.Close)
	return a
}

func (r *rig) turn(wait time.Duration) {
	r.t.Helper()
	if err := r.shard.Turn(wait); err != nil {
		r.t.Fatal(err)
	}
}

// until turns the shard until something was told.
func (r *rig) until() {
	r.t.Helper()
	if !testnet.Within(5*time.Second, func() bool { r.turn(time.Millisecond); return len(r.told) > 0 }) {
		r.t.Fatal("nothing was told")
	}
}

func (r *rig) wantTold(want ...unix.Errno) {
	r.t.Helper()
	if !slices.Equal(r.told, want) {
		r.t.Errorf("told %v, want %v", r.told, want)
	}
}

func stream(t *testing.T, family int) int {
	t.Helper()
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	testnet.NeedAddress(t, err)
	return fd
}

// bound is a socket with an address on the host's loopback.
func bound(t *testing.T) (fd int, at netip.AddrPort) {
	t.Helper()
	fd = stream(t, unix.AF_INET)
	var any sockio.Addr
	any.Set(netip.MustParseAddrPort("127.0.0.1:0"))
	if errno := sockio.Bind(fd, &any); errno != 0 {
		t.Fatal(errno)
	}
	return fd, sockio.LocalAddr(fd)
}

// listen is a listener whose queue takes n connections.
func listen(t *testing.T, n int) (fd int, at netip.AddrPort) {
	t.Helper()
	fd, at = bound(t)
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Listen(fd, n-1); err != nil { // a queue of length n holds n+1
		t.Fatal(err)
	}
	return fd, at
}

// silent is a listener whose queue is full, so that further connects hang, and what
// makes room in it.
func silent(t *testing.T) (at netip.AddrPort, relent func()) {
	t.Helper()
	l, at := listen(t, 1)
	first := stream(t, unix.AF_INET)
	t.Cleanup(func() { unix.Close(first) })
	var sa sockio.Addr
	sa.Set(at)
	if errno := sockio.Connect(first, &sa); errno != unix.EINPROGRESS && errno != 0 {
		t.Fatal(errno)
	}
	return at, func() {
		fd, _, errno := sockio.Accept(l)
		if errno != 0 {
			t.Fatal(errno)
		}
		unix.Close(fd)
	}
}

// What the kernel knows at once is told at once, and needs no watch.
func TestConnectedAtOnce(t *testing.T) {
	r := newRig(t)
	_, at := listen(t, 5)
	a := r.attempt()
	fd := stream(t, unix.AF_INET)
	a.Start(fd, at, time.Second)
	r.wantTold(0)
	if a.FD != fd || a.Watch != nil || a.Events != 0 {
		t.Errorf("connected: %+v", a.Socket)
	}
	if r.shard.Armed(&a.timer) {
		t.Error("a timer is left")
	}
	s := a.Release()
	if a.FD >= 0 || s.FD != fd {
		t.Errorf("released %+v, left %+v", s, a.Socket)
	}
	a.Close() // is nobody's any more
	if !sockio.Connected(s.FD) {
		t.Error("closed though it was released")
	}
	s.Close()
	s.Close()
	r.clock.Advance(time.Hour)
	r.turn(0)
	r.wantTold(0)
}

func TestRefused(t *testing.T) {
	for _, addr := range []string{"127.0.0.1", "::1"} {
		r := newRig(t)
		family := unix.AF_INET
		if addr == "::1" {
			family = unix.AF_INET6
		}
		// A port that is bound, so that nobody else has it, where nobody listens.
		holder := stream(t, family)
		defer unix.Close(holder)
		var sa sockio.Addr
		sa.Set(netip.AddrPortFrom(netip.MustParseAddr(addr), 0))
		if errno := sockio.Bind(holder, &sa); errno != 0 {
			testnet.NeedAddress(t, errno)
		}
		a := r.attempt()
		a.Start(stream(t, family), sockio.LocalAddr(holder), time.Minute)
		r.until()
		r.wantTold(unix.ECONNREFUSED)
		a.Close()
		r.clock.Advance(time.Hour)
		r.turn(0)
		r.wantTold(unix.ECONNREFUSED)
	}
}

// An error that connect(2) itself returns is told as what it is.
func TestErrorAtOnce(t *testing.T) {
	r := newRig(t)
	a := r.attempt()
	a.Start(stream(t, unix.AF_INET), netip.MustParseAddrPort("255.255.255.255:1"), time.Minute)
	if len(r.told) != 1 || r.told[0] == 0 {
		t.Errorf("told %v, want an error", r.told)
	}
}

// The kernel's answer comes later, by an event, and is told once.
func TestConnectedLater(t *testing.T) {
	r := newRig(t)
	at, relent := silent(t)
	a := r.attempt()
	a.Start(stream(t, unix.AF_INET), at, time.Minute)
	r.turn(0)
	r.wantTold()
	if a.Watch == nil || !r.shard.Armed(&a.timer) {
		t.Error("under way without a watch or a timer")
	}
	relent()
	r.until() // the SYN is sent again after a second
	r.wantTold(0)
	if a.Events&unix.EPOLLOUT == 0 {
		t.Errorf("events %#x are to be handed over", a.Events)
	}
	if r.shard.Armed(&a.timer) {
		t.Error("a timer is left")
	}
}

// What happens between the answer and Release is handed over with the socket: an
// edge tells of it once.
func TestEventsBeforeRelease(t *testing.T) {
	r := newRig(t)
	l, at := listen(t, 5)
	a := r.attempt()
	fd := stream(t, unix.AF_INET)
	a.Start(fd, at, 0)
	r.wantTold(0)
	w, err := r.shard.Watch(fd, Events, a) // as if the answer had come by it
	if err != nil {
		t.Fatal(err)
	}
	a.Watch, a.Events = w, unix.EPOLLOUT
	server, _, errno := sockio.Accept(l)
	if errno != 0 {
		t.Fatal(errno)
	}
	if _, err := unix.Write(server, []byte("banner")); err != nil {
		t.Fatal(err)
	}
	unix.Close(server)
	const want = unix.EPOLLIN | unix.EPOLLRDHUP
	if !testnet.Within(5*time.Second, func() bool { r.turn(time.Millisecond); return a.Events&want == want }) {
		t.Errorf("events %#x", a.Events)
	}
	r.wantTold(0)
	s := a.Release()
	defer s.Close()
	if s.Watch != w || s.Events&want != want || a.Watch != nil || a.Events != 0 {
		t.Errorf("released %+v, left %+v", s, a.Socket)
	}
}

// Patience ends at its time, and not with zero.
func TestPatience(t *testing.T) {
	r := newRig(t)
	at, _ := silent(t)
	patient, endless := r.attempt(), r.attempt()
	patient.Start(stream(t, unix.AF_INET), at, 10*time.Second)
	endless.Start(stream(t, unix.AF_INET), at, 0)
	r.clock.Advance(10*time.Second - 1)
	r.turn(0)
	r.wantTold()
	r.clock.Advance(1)
	r.turn(0)
	r.wantTold(unix.ETIMEDOUT)
	r.clock.Advance(1000 * time.Hour)
	r.turn(0)
	r.wantTold(unix.ETIMEDOUT)
}

// An answer that came while the shard was busy counts, though the time is over.
func TestAnswerBeforeTheTimer(t *testing.T) {
	r := newRig(t)
	at, relent := silent(t)
	a := r.attempt()
	a.Start(stream(t, unix.AF_INET), at, time.Second)
	relent()
	if !testnet.Within(5*time.Second, func() bool { return sockio.Connected(a.FD) }) {
		t.Fatal("not connected")
	}
	r.clock.Advance(time.Hour)
	r.turn(0) // the timer fires before events are looked for
	r.turn(0)
	r.wantTold(0)
}

// A socket that connects to its own address is its own peer: nobody listens. Where
// that cannot be, nobody looks.
func TestConnectThatMeetsItself(t *testing.T) {
	r := newRig(t)
	a := r.attempt()
	fd, at := bound(t)
	a.Start(fd, at, time.Second)
	r.until()
	r.wantTold(unix.ECONNREFUSED)

	r.told = nil
	a = r.attempt()
	a.Bound = true
	fd, at = bound(t)
	a.Start(fd, at, time.Second)
	r.until()
	r.wantTold(0)
}

// An attempt that is closed tells nobody, whatever comes: the answer, the timer, or
// another socket of the same number.
func TestCloseTellsNobody(t *testing.T) {
	r := newRig(t)
	at, relent := silent(t)
	for _, end := range []func(*Attempt){(*Attempt).Close, (*Attempt).Reset} {
		a := r.attempt()
		a.Start(stream(t, unix.AF_INET), at, time.Second)
		end(a)
		end(a)
		if a.FD >= 0 || r.shard.Armed(&a.timer) {
			t.Errorf("closed: %+v, timer armed %v", a.Socket, r.shard.Armed(&a.timer))
		}
	}
	relent()
	again := r.attempt()
	again.Start(stream(t, unix.AF_INET), at, 0) // mostly of the same number
	r.until()
	r.wantTold(0)
	r.clock.Advance(time.Hour)
	r.turn(0)
	r.wantTold(0)
}

// An attempt may be closed by whom it tells.
func TestCloseWhileTelling(t *testing.T) {
	r := newRig(t)
	at, relent := silent(t)
	var a *Attempt
	told := 0
	a = &Attempt{Socket: None(), Shard: r.shard, Done: func(unix.Errno) { told++; a.Close() }}
	a.Start(stream(t, unix.AF_INET), at, time.Second)
	r.clock.Advance(time.Second)
	r.turn(0)
	relent()
	r.clock.Advance(time.Hour)
	r.turn(0)
	if told != 1 || a.FD >= 0 {
		t.Errorf("told %d times, left %+v", told, a.Socket)
	}
}

// Reset is seen as one, Close as an end.
func TestResetAndClose(t *testing.T) {
	r := newRig(t)
	l, at := listen(t, 5)
	for _, tt := range []struct {
		name string
		end  func(*Attempt)
		want error
	}{
		{"reset", (*Attempt).Reset, unix.ECONNRESET},
		{"close", (*Attempt).Close, nil},
	} {
		a := r.attempt()
		fd := stream(t, unix.AF_INET)
		Prepare(fd)
		a.Start(fd, at, 0)
		server, _, errno := sockio.Accept(l)
		if errno != 0 {
			t.Fatal(errno)
		}
		defer unix.Close(server)
		tt.end(a)
		tt.end(a)
		var n int
		var err error
		read := func() bool {
			n, err = unix.Read(server, make([]byte, 1))
			return err != unix.EAGAIN
		}
		if !testnet.Within(5*time.Second, read) || n > 0 || err != tt.want {
			t.Errorf("%s: the peer read %d bytes, %v; want %v", tt.name, n, err, tt.want)
		}
		if a.FD >= 0 {
			t.Errorf("%s: left %+v", tt.name, a.Socket)
		}
	}
	none := None()
	none.Reset()
	none.Close()
}

// Whatever becomes of attempts, their descriptors are closed with them.
func TestNoDescriptorIsLeft(t *testing.T) {
	r := newRig(t)
	at, _ := silent(t)
	_, good := listen(t, 64)
	holder, refused := bound(t)
	defer unix.Close(holder)
	before := testnet.Descriptors(t)
	for i := range 60 {
		a := r.attempt()
		a.Start(stream(t, unix.AF_INET), []netip.AddrPort{at, good, refused}[i%3], time.Second)
		r.turn(0)
		if i%2 == 0 {
			a.Reset()
		}
		a.Close()
	}
	if n := testnet.Descriptors(t); n != before {
		t.Errorf("%d descriptors, %d before", n, before)
	}
}
