package tap

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func addrPorts(texts ...string) (list []netip.AddrPort) {
	for _, s := range texts {
		list = append(list, netip.MustParseAddrPort(s))
	}
	return list
}

// openDescriptors counts ours.
func openDescriptors(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// The sockets are the guest's, privileged ports too, whoever the guest's user
// is there; its loopback interface may come up later.
func TestListen(t *testing.T) {
	at := addrPorts("127.0.0.1:80", "[::1]:80", "127.0.0.1:8080")
	for name, n := range map[string]nesting{"root": {}, "no root": {UID: 1000}} {
		t.Run(name, func(t *testing.T) {
			g := newGuest(t, n)
			before := children(t)
			fds, err := Listen(t.Context(), Target{PID: g.pid}, at)
			if err != nil {
				t.Fatal(err)
			}
			defer closeAll(fds)
			if g.link("lo").LoopbackUp {
				t.Error("Listen has changed the guest")
			}
			g.do(command{Do: "up", Name: "lo"})
			for i, a := range at {
				if err := g.in.Encode(command{Do: "connect", Name: a.String()}); err != nil {
					t.Fatal(err)
				}
				if !ready(t, fds[i], unix.POLLIN, 5*time.Second) {
					t.Fatalf("nobody has come to %v", a)
				}
				fd, _, err := unix.Accept(fds[i])
				if err != nil {
					t.Fatal(err)
				}
				unix.Write(fd, []byte(a.String()))
				unix.Close(fd)
				var got answerTo
				if err := g.out.Decode(&got); err != nil || got.Text != a.String() || got.Err != "" {
					t.Errorf("the guest has read %+v from %v, %v", got, a, err)
				}
				flags, err := unix.FcntlInt(uintptr(fds[i]), unix.F_GETFD, 0)
				if err != nil || flags&unix.FD_CLOEXEC == 0 {
					t.Errorf("descriptor flags %#x, %v", flags, err)
				}
			}
			if c, err := net.Dial("tcp", "127.0.0.1:8080"); err == nil {
				c.Close()
				t.Error("the port is open in our namespace")
			}
			if kids := children(t); !slices.Equal(kids, before) {
				t.Errorf("children %v, before %v", kids, before)
			}
		})
	}
}

// More ports than one message carries.
func TestListen_Many(t *testing.T) {
	g := newGuest(t, nesting{})
	var at []netip.AddrPort
	for i := range 3*maxSockets + 1 {
		at = append(at, netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(2000+i)))
	}
	fds, err := Listen(t.Context(), Target{PID: g.pid}, at)
	if err != nil || len(fds) != len(at) {
		t.Fatalf("%d sockets, %v, want %d", len(fds), err, len(at))
	}
	defer closeAll(fds)
	for i, fd := range fds {
		if err := checkTCP(fd, unix.BPF_TCP_LISTEN, at[i]); err != nil {
			t.Fatalf("socket %d: %v", i, err)
		}
	}
}

// A busy port is waited for, and one that stays busy is an error that names it;
// no socket is left of those before it.
func TestListen_Busy(t *testing.T) {
	g := newGuest(t, nesting{})
	g.do(command{Do: "up", Name: "lo"})
	before := openDescriptors(t)
	first, err := Listen(t.Context(), Target{PID: g.pid}, addrPorts("127.0.0.1:8080"))
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	time.AfterFunc(200*time.Millisecond, func() { closeAll(first) })
	second, err := Listen(t.Context(), Target{PID: g.pid}, addrPorts("127.0.0.1:8080"))
	if took := time.Since(begin); err != nil || took < 150*time.Millisecond {
		t.Fatalf("%v after %v", err, took)
	}
	closeAll(second)
	g.do(command{Do: "listen", Name: "127.0.0.1:8080"})
	begin = time.Now()
	_, err = Listen(t.Context(), Target{PID: g.pid}, addrPorts("127.0.0.1:8079", "127.0.0.1:8080"))
	took := time.Since(begin)
	wantError(t, err, unix.EADDRINUSE, "listen on tcp 127.0.0.1:8080")
	if !strings.Contains(err.Error(), "another program of the guest has the port") || took < busyFor || took > 3*busyFor {
		t.Errorf("%v after %v", err, took)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	begin = time.Now()
	if _, err = Listen(ctx, Target{PID: g.pid}, addrPorts("127.0.0.1:8080")); !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) > busyFor {
		t.Errorf("with a context of 50 ms: %v after %v", err, time.Since(begin))
	}
	if got := openDescriptors(t); got > before {
		t.Errorf("%d descriptors left", got-before)
	}
}

func TestListen_NoNamespace(t *testing.T) {
	for _, target := range []Target{{}, {FD: 9}} {
		if _, err := Listen(t.Context(), target, addrPorts("127.0.0.1:80")); err == nil {
			t.Errorf("%+v is taken for a namespace", target)
		}
	}
}

// What the child sends is not believed.
func TestListensAt(t *testing.T) {
	at := addrPorts("127.0.0.1:0", "[::1]:0")
	sockets := func(typ int) (fd int) {
		fd, err := unix.Socket(unix.AF_INET, typ|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fd) })
		return fd
	}
	got, err := ask(new(join), openListener(at[0]), openListener(at[1]))
	if err != nil {
		t.Fatal(err)
	}
	defer closeResults(got)
	for i, a := range at {
		fd := got[i].fd
		local, _ := unix.Getsockname(fd)
		switch sa := local.(type) {
		case *unix.SockaddrInet4:
			a = netip.AddrPortFrom(a.Addr(), uint16(sa.Port))
		case *unix.SockaddrInet6:
			a = netip.AddrPortFrom(a.Addr(), uint16(sa.Port))
		}
		if checkTCP(fd, unix.BPF_TCP_LISTEN, a) != nil {
			t.Errorf("%v is not recognized", a)
		}
		for _, other := range append(addrPorts("127.0.0.2:80", "[::]:80"), netip.AddrPortFrom(a.Addr(), a.Port()-1)) {
			if checkTCP(fd, unix.BPF_TCP_LISTEN, other) == nil {
				t.Errorf("%v is taken for %v", a, other)
			}
		}
		unix.SetNonblock(fd, false)
		if checkTCP(fd, unix.BPF_TCP_LISTEN, a) == nil {
			t.Errorf("%v would block, and is taken", a)
		}
	}
	for name, fd := range map[string]int{
		"TCP that does not listen": sockets(unix.SOCK_STREAM | unix.SOCK_NONBLOCK),
		"UDP":                      sockets(unix.SOCK_DGRAM | unix.SOCK_NONBLOCK),
		"no descriptor":            -1,
	} {
		if checkTCP(fd, unix.BPF_TCP_LISTEN, netip.MustParseAddrPort("0.0.0.0:0")) == nil {
			t.Errorf("%s is taken", name)
		}
	}
}

func TestListeners(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	for _, tt := range []struct {
		at    string
		got   result
		errno unix.Errno
		text  string // of the error; none: it is no error
	}{
		{"[::1]:80", result{-1, unix.EAFNOSUPPORT}, 0, ""},
		{"127.0.0.1:80", result{-1, unix.EAFNOSUPPORT}, unix.EAFNOSUPPORT, "listen on tcp 127.0.0.1:80: address family not supported"},
		{"[::1]:80", result{-1, unix.EACCES}, unix.EACCES, "listen on tcp [::1]:80: permission denied (ports below 1024 are closed to us there"},
		{"127.0.0.1:80", result{fd: int(r.Fd())}, 0, "what came does not listen on tcp 127.0.0.1:80"},
	} {
		fds, err := listeners([]result{tt.got}, addrPorts(tt.at))
		if tt.text != "" {
			wantError(t, err, tt.errno, tt.text)
		} else if err != nil || fds[0] != -1 {
			t.Errorf("%+v: %v, %v", tt.got, fds, err)
		}
	}
}
