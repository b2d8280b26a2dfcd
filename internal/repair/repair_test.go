package repair

import (
	"encoding/binary"
	"io"
	"net/netip"
	"slices"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"epiphyte/internal/sockio"
	"epiphyte/internal/testnet"
	"epiphyte/stack"
)

// patience bounds every wait of these tests, in seconds.
const patience = 20

func words(v ...uint32) (b []byte) {
	for _, w := range v {
		b = binary.NativeEndian.AppendUint32(b, w)
	}
	return b
}

func TestOptions(t *testing.T) {
	for name, tc := range map[string]struct {
		frozen stack.Frozen
		want   []byte
	}{
		"no scale":   {stack.Frozen{MSS: 536}, words(2, 536, 3, 0)},
		"scales":     {stack.Frozen{MSS: 65535, SendScale: 7, RecvScale: 14}, words(2, 65535, 3, 14<<16|7)},
		"SACK":       {stack.Frozen{MSS: 1460, SACK: true}, words(2, 1460, 3, 0, 4, 0)},
		"timestamps": {stack.Frozen{MSS: 1460, Timestamps: true, Timestamp: 9}, words(2, 1460, 3, 0, 8, 0)},
		"both":       {stack.Frozen{MSS: 1460, SACK: true, Timestamps: true}, words(2, 1460, 3, 0, 4, 0, 8, 0)},
	} {
		if got := repairOptions(&tc.frozen); !slices.Equal(got, tc.want) {
			t.Errorf("%s: %x, want %x", name, got, tc.want)
		}
	}
}

func TestWindow(t *testing.T) {
	f := stack.Frozen{SendNext: 1, RecvNext: 1<<32 - 2, SendWindow: 1 << 30, RecvWindow: 65535, SendScale: 7}
	if got, want := repairWindow(&f), words(1<<32-2, 1<<30-1, 1<<30-1, 65535, 1<<32-2); !slices.Equal(got, want) {
		t.Errorf("%x, want %x", got, want)
	}
}

// A lo is tried by one connection at a time, at growing intervals, until it passes one.
func TestLoopback(t *testing.T) {
	var l Loopback
	free := func(now time.Duration, want bool) {
		t.Helper()
		if l.Free(now) != want {
			t.Errorf("after %v free: %v", now, !want)
		}
	}
	var now time.Duration
	for _, wait := range []time.Duration{1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300} {
		free(now, true)
		l.Begin()
		free(now, false)
		l.Fails(now)
		l.Ends()
		free(now+wait*time.Second-1, false)
		now += wait * time.Second
	}
	l.Begin()
	l.Ends() // for another reason
	free(now, true)
	l.Begin()
	l.Passes()
	free(now, true)
	for range 3 { // side by side, since it works
		l.Begin()
		free(now, true)
	}
	for range 3 {
		l.Fails(now)
		l.Ends()
	}
	free(now+loFirst-1, false)
	free(now+loFirst, true)
	if l.Works() {
		t.Error("it works after it has not")
	}
	l.Begin()
	l.Answers()
	l.Ends()
	if free(now, true); !l.Works() {
		t.Error("it does not work after an answer")
	}
}

// open makes a socket that waits for patience at most.
func open(t *testing.T, a netip.Addr) int {
	t.Helper()
	family := unix.AF_INET
	if a.Is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: patience})
	}
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

// repairing is a socket in repair mode.
func repairing(t *testing.T, a netip.Addr) int {
	t.Helper()
	fd := open(t, a)
	set(t, fd, unix.TCP_REPAIR, 1)
	return fd
}

func set(t *testing.T, fd, option, value int) {
	t.Helper()
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, option, value); err != nil {
		t.Fatalf("option %d: %v", option, err)
	}
}

// connection makes a TCP connection by way of lo: who asks, and who answers.
func connection(t *testing.T, a netip.Addr) (fds [2]int) {
	t.Helper()
	l := open(t, a)
	defer unix.Close(l)
	var to sockio.Addr
	to.Set(netip.AddrPortFrom(a, 0))
	errno := sockio.Bind(l, &to)
	if errno != 0 || unix.Listen(l, 1) != nil {
		t.Fatalf("listen: %v", errno)
	}
	to.Set(sockio.LocalAddr(l))
	fds[0] = open(t, a)
	if errno := sockio.Connect(fds[0], &to); errno != 0 {
		t.Fatal(errno)
	}
	var err error
	if fds[1], _, err = unix.Accept4(l, unix.SOCK_CLOEXEC); err == nil {
		err = unix.SetsockoptTimeval(fds[1], unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: patience})
	}
	if err != nil {
		t.Fatal(err)
	}
	return fds
}

// get is what a socket says of itself.
func get(t *testing.T, fd, option, size int) []byte {
	t.Helper()
	b, n := make([]byte, size), uint32(size)
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.IPPROTO_TCP, uintptr(option), uintptr(unsafe.Pointer(&b[0])), uintptr(unsafe.Pointer(&n)), 0)
	if errno != 0 || int(n) != size {
		t.Fatalf("option %d: %d bytes, %v", option, n, errno)
	}
	return b
}

// take ends a socket in silence, and is the state in which another one continues it.
func take(t *testing.T, fd int, guest netip.AddrPort) stack.Frozen {
	t.Helper()
	set(t, fd, unix.TCP_REPAIR, 1)
	f := stack.Frozen{Guest: guest, Outside: sockio.LocalAddr(fd), MSS: 1460, SACK: true, Timestamps: true}
	number := func(option int) uint32 { return binary.NativeEndian.Uint32(get(t, fd, option, 4)) }
	set(t, fd, unix.TCP_REPAIR_QUEUE, sendQueue)
	f.SendNext = number(unix.TCP_QUEUE_SEQ)
	set(t, fd, unix.TCP_REPAIR_QUEUE, receiveQueue)
	f.RecvNext = number(unix.TCP_QUEUE_SEQ)
	window := get(t, fd, unix.TCP_REPAIR_WINDOW, 20)
	f.SendWindow, f.RecvWindow = binary.NativeEndian.Uint32(window[4:]), binary.NativeEndian.Uint32(window[12:])
	scales := get(t, fd, unix.TCP_INFO, 8)[6] // tcpi_snd_wscale and tcpi_rcv_wscale
	f.SendScale, f.RecvScale = scales&15, scales>>4
	f.Timestamp = number(unix.TCP_TIMESTAMP)
	unix.Close(fd)
	return f
}

func send(t *testing.T, fd int, data string) {
	t.Helper()
	if _, err := unix.Write(fd, []byte(data)); err != nil {
		t.Fatal(err)
	}
}

func receive(t *testing.T, fd int, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(reader(fd), got); err != nil || string(got) != want {
		t.Fatalf("received %q, %v, want %q", got[:n], err, want)
	}
}

type reader int

func (r reader) Read(b []byte) (int, error) {
	n, err := unix.Read(int(r), b)
	if n == 0 && err == nil {
		err = io.EOF
	}
	return max(n, 0), err
}

// Another socket takes the place of either end of a connection, and the kernel at the
// other end does not notice: not even if it has received, or has not, what the socket says it has
// sent.
func TestRestore(t *testing.T) {
	testnet.OwnNetwork(t)
	for i, addr := range []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()} {
		fds := connection(t, addr)
		guest, own := fds[1-i], fds[i]
		defer unix.Close(guest)
		send(t, guest, "question")
		receive(t, own, "question")
		send(t, own, "answer, ")
		receive(t, guest, "answer, ")
		f := take(t, own, sockio.LocalAddr(guest))
		f.SendNext -= uint32(len("answer, "))
		f.Unacknowledged = []byte("answer, and more")

		fd := repairing(t, addr)
		defer unix.Close(fd)
		var at sockio.Addr
		at.Set(f.Outside)
		if errno := sockio.Bind(fd, &at); errno != 0 {
			t.Fatal(errno)
		}
		if err := Restore(fd, &f); err != nil {
			t.Fatalf("%v: %v", addr, err)
		}
		if Answered(fd) {
			t.Errorf("%v: answered before anything was said", addr)
		}
		if got := get(t, fd, unix.TCP_REPAIR_WINDOW, 20); !slices.Equal(got, repairWindow(&f)) {
			t.Errorf("%v: the windows are %x", addr, got)
		}
		set(t, fd, unix.TCP_REPAIR, 0)
		send(t, fd, "?") // which the guest has
		if err := Resume(fd, &f); err != nil {
			t.Fatalf("%v: %v", addr, err)
		}
		receive(t, guest, "and more")
		if !Answered(fd) {
			t.Errorf("%v: not answered", addr)
		}
		send(t, guest, "and so on")
		receive(t, fd, "and so on")
		// Of a connection without options it is 536.
		if info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO); err != nil || info.Snd_mss < 1400 {
			t.Errorf("%v: segments have %d bytes, %v", addr, info.Snd_mss, err)
		}
		send(t, fd, "the end")
		receive(t, guest, "the end")
		unix.Shutdown(fd, unix.SHUT_WR)
		if n, err := unix.Read(guest, make([]byte, 1)); n != 0 || err != nil {
			t.Errorf("%v: the guest has received %d bytes, %v after the end", addr, n, err)
		}
		unix.Shutdown(guest, unix.SHUT_WR)
		if n, err := unix.Read(fd, make([]byte, 1)); n != 0 || err != nil {
			t.Errorf("%v: the socket has received %d bytes, %v after the end", addr, n, err)
		}
	}
}

// A socket that was thrown away in repair mode has not been heard of.
func TestRestoreInVain(t *testing.T) {
	testnet.OwnNetwork(t)
	fds := connection(t, netip.IPv6Loopback())
	defer unix.Close(fds[0])
	f := take(t, fds[1], sockio.LocalAddr(fds[0]))
	f.Unacknowledged = []byte("never said")
	var at sockio.Addr
	at.Set(f.Outside)
	for range 2 {
		fd := repairing(t, f.Guest.Addr())
		errno := sockio.Bind(fd, &at)
		if err := Restore(fd, &f); errno != 0 || err != nil {
			t.Fatal(errno, err)
		}
		unix.Close(fd)
	}
	if got := binary.NativeEndian.Uint32(get(t, fds[0], unix.TCP_INFO, 144)[140:]); got != 1 { // tcpi_segs_in
		t.Errorf("the guest has received %d segments, want the answer to its SYN", got)
	}
	if !sockio.Connected(fds[0]) {
		t.Error("it was reset")
	}
}

// More than a socket sends at once, or the guest's window has room for, is refused: the guest may
// have all of it.
func TestRestoreTooMuch(t *testing.T) {
	for n, want := range map[int]error{13032: nil, 13033: unix.ENOBUFS, 16 << 10: unix.ENOBUFS} {
		f := stack.Frozen{MSS: 1460, SendWindow: 1 << 16, Unacknowledged: make([]byte, n)}
		if err := Restore(-1, &f); want != nil && err != want || want == nil && err != unix.EBADF {
			t.Errorf("%d bytes: %v, want %v", n, err, want)
		}
	}
	for window, want := range map[uint32]error{0: unix.ENOBUFS, 1: unix.ENOBUFS, 11: unix.ENOBUFS, 12: unix.EBADF} {
		f := stack.Frozen{MSS: 1460, SendWindow: window, Unacknowledged: make([]byte, 10)}
		if err := Restore(-1, &f); err != want {
			t.Errorf("a window of %d: %v, want %v", window, err, want)
		}
	}
}

// Occupied tells a connection whose end is here from those whose end is elsewhere.
func TestOccupied(t *testing.T) {
	testnet.OwnNetwork(t)
	fds := connection(t, netip.IPv6Loopback())
	defer unix.Close(fds[1])
	guest, outside := sockio.LocalAddr(fds[0]), sockio.LocalAddr(fds[1])
	occupied := func(guest, outside netip.AddrPort) bool {
		t.Helper()
		fd := repairing(t, guest.Addr())
		defer unix.Close(fd)
		return Occupied(fd, guest, outside)
	}
	elsewhere := netip.AddrPortFrom(guest.Addr(), 1025)
	for _, tc := range []struct {
		guest, outside netip.AddrPort
		want           bool
	}{{guest, outside, true}, {outside, guest, true}, {guest, elsewhere, false}, {elsewhere, outside, false}} {
		if got := occupied(tc.guest, tc.outside); got != tc.want {
			t.Errorf("%v to %v: %v", tc.guest, tc.outside, got)
		}
	}
	take(t, fds[0], outside)
	if occupied(guest, outside) {
		t.Error("by a socket that is closed")
	}
}
