package tap

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/internal/sockio"
)

// openDescriptors counts ours.
func openDescriptors(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// The sockets are the guest's wherever they are bound, to privileged ports too, whoever
// the guest's user is there; its loopback interface may come up later.
func TestSockets(t *testing.T) {
	at := []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:80"), netip.MustParseAddrPort("[::1]:80")}
	for name, n := range map[string]nesting{"root": {}, "no root": {UID: 1000}} {
		t.Run(name, func(t *testing.T) {
			g := newGuest(t, n)
			before := children(t)
			fds, err := Sockets(t.Context(), Target{PID: g.pid},
				SocketKind{Family: unix.AF_INET, Type: unix.SOCK_STREAM, Count: 1},
				SocketKind{Family: unix.AF_INET6, Type: unix.SOCK_STREAM, Count: 1},
				SocketKind{Family: unix.AF_INET, Type: unix.SOCK_DGRAM, Count: 2},
				SocketKind{Family: unix.AF_NETLINK, Type: unix.SOCK_RAW, Protocol: unix.NETLINK_SOCK_DIAG, Count: 1})
			if err != nil {
				t.Fatal(err)
			}
			defer closeAll(slices.Concat(fds...))
			if len(fds[0]) != 1 || len(fds[1]) != 1 || len(fds[2]) != 2 || len(fds[3]) != 1 {
				t.Fatalf("sockets %v", fds)
			}
			if g.link("lo").LoopbackUp {
				t.Error("Sockets has changed the guest")
			}
			for i, a := range at {
				var sa sockio.Addr
				sa.Set(a)
				unix.SetsockoptInt(fds[i][0], unix.IPPROTO_IP, unix.IP_FREEBIND, 1)
				if errno := sockio.Bind(fds[i][0], &sa); errno != 0 {
					t.Fatalf("bind to %v: %v", a, errno)
				}
				if err := unix.Listen(fds[i][0], 1); err != nil {
					t.Fatal(err)
				}
			}
			g.do(command{Do: "up", Name: "lo"})
			for i, a := range at {
				if err := g.in.Encode(command{Do: "connect", Name: a.String()}); err != nil {
					t.Fatal(err)
				}
				if !ready(t, fds[i][0], unix.POLLIN, 5*time.Second) {
					t.Fatalf("nobody has come to %v", a)
				}
				fd, _, err := unix.Accept(fds[i][0])
				if err != nil {
					t.Fatal(err)
				}
				unix.Write(fd, []byte(a.String()))
				unix.Close(fd)
				var got answerTo
				if err := g.out.Decode(&got); err != nil || got.Text != a.String() || got.Err != "" {
					t.Errorf("the guest has read %+v from %v, %v", got, a, err)
				}
				flags, err := unix.FcntlInt(uintptr(fds[i][0]), unix.F_GETFD, 0)
				if err != nil || flags&unix.FD_CLOEXEC == 0 {
					t.Errorf("descriptor flags %#x, %v", flags, err)
				}
			}
			if c, err := net.Dial("tcp", "127.0.0.1:80"); err == nil {
				c.Close()
				t.Error("the port is open in our namespace")
			}
			if kids := children(t); !slices.Equal(kids, before) {
				t.Errorf("children %v, before %v", kids, before)
			}
		})
	}
}

// More sockets than one message carries.
func TestSockets_Many(t *testing.T) {
	g := newGuest(t, nesting{})
	before := openDescriptors(t)
	const n = 3*maxSockets + 1
	fds, err := Sockets(t.Context(), Target{PID: g.pid}, SocketKind{Family: unix.AF_INET, Type: unix.SOCK_STREAM, Count: n})
	if err != nil || len(fds[0]) != n {
		t.Fatalf("%v, %v, want %d", fds, err, n)
	}
	closeAll(fds[0])
	if got := openDescriptors(t); got > before {
		t.Errorf("%d descriptors left", got-before)
	}
}

// A kind that there is not is an error, and leaves nothing.
func TestSockets_Refused(t *testing.T) {
	for _, target := range []Target{{}, {FD: 9}} {
		if _, err := Sockets(t.Context(), target, SocketKind{Family: unix.AF_INET, Type: unix.SOCK_STREAM, Count: 1}); err == nil {
			t.Errorf("%+v is taken for a namespace", target)
		}
	}
	g := newGuest(t, nesting{})
	before := openDescriptors(t)
	_, err := Sockets(t.Context(), Target{PID: g.pid},
		SocketKind{Family: unix.AF_INET, Type: unix.SOCK_STREAM, Count: 2},
		SocketKind{Family: unix.AF_INET, Type: unix.SOCK_STREAM, Protocol: unix.IPPROTO_UDP, Count: 1})
	if !errors.Is(err, unix.EPROTONOSUPPORT) {
		t.Errorf("error %v", err)
	}
	if got := openDescriptors(t); got > before {
		t.Errorf("%d descriptors left", got-before)
	}
}

// What the child sends is not believed.
func TestCheckFresh(t *testing.T) {
	socket := func(family, typ int) int {
		fd, err := unix.Socket(family, typ|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fd) })
		return fd
	}
	listening := socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK)
	if err := unix.Listen(listening, 1); err != nil {
		t.Fatal(err)
	}
	bound := socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK)
	if err := unix.Bind(bound, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	tcp, udp := SocketKind{Family: unix.AF_INET, Type: unix.SOCK_STREAM}, SocketKind{Family: unix.AF_INET, Type: unix.SOCK_DGRAM}
	diag := SocketKind{Family: unix.AF_NETLINK, Type: unix.SOCK_RAW}
	for name, c := range map[string]struct {
		fd   int
		kind SocketKind
		want bool
	}{
		"TCP":                  {socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK), tcp, true},
		"UDP":                  {socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK), udp, true},
		"netlink":              {socket(unix.AF_NETLINK, unix.SOCK_RAW), diag, true},
		"TCP that would block": {socket(unix.AF_INET, unix.SOCK_STREAM), tcp, false},
		"TCP that listens":     {listening, tcp, false},
		"UDP that is bound":    {bound, udp, false},
		"UDP for TCP":          {socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK), tcp, false},
		"TCP for UDP":          {socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK), udp, false},
		"IPv6 for IPv4":        {socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK), udp, false},
		"TCP for netlink":      {socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK), diag, false},
		"no descriptor":        {-1, tcp, false},
	} {
		if err := checkFresh(c.fd, c.kind); (err == nil) != c.want {
			t.Errorf("%s: %v", name, err)
		}
	}
}
