package portfwd

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/internal/testnet"
)

// ended is a context that leaves no patience for a busy port.
func ended() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

// freeRange is n ports in a row that nobody has.
func freeRange(t *testing.T, host netip.Addr, n int) uint16 {
	t.Helper()
	for first := 20000; first+n < 32768; first += n { // below the kernel's own choice
		free := true
		for i := 0; i < n && free; i++ {
			at := netip.AddrPortFrom(host, uint16(first+i))
			for _, proto := range []string{TCP, UDP} {
				fd, errno := tryBind(proto, at)
				if free = free && errno == 0; errno == 0 {
					unix.Close(fd)
				}
			}
		}
		if free {
			return uint16(first)
		}
	}
	t.Fatalf("there are no %d free ports in a row", n)
	return 0
}

// B36: of a range all ports are published, or none.
func TestB36_RangeIsAllOrNothing(t *testing.T) {
	w := newWorld(t, setting{})
	const n = 20
	first := freeRange(t, loop4, n)
	for _, proto := range []string{TCP, UDP} {
		busy := netip.AddrPortFrom(loop4, first+n-1)
		fd, errno := tryBind(proto, busy)
		if errno != 0 {
			t.Fatal(errno)
		}
		fds := testnet.Descriptors(t)
		rule := Rule{Proto: proto, Host: loop4, HostPort: first, HostPortEnd: first + n - 1}
		e, err := w.Add(ended(), rule)
		be, ok := errors.AsType[*BindError](err)
		if !ok || be.Addr != busy || be.Errno != unix.EADDRINUSE || be.Proto != proto {
			t.Errorf("%+v, %v, want a *BindError of %v", e, err, busy)
		}
		if got := testnet.Descriptors(t); got != fds || len(w.List()) != 0 {
			t.Errorf("left of a range that failed: %d descriptors, %+v", got-fds, w.List())
		}
		unix.Close(fd)
		if e, err = w.Add(ended(), rule); err != nil {
			t.Fatalf("the same ports, all free: %v", err)
		}
		if got := testnet.Descriptors(t); got != fds-1+n {
			t.Errorf("%d descriptors for %d ports", got-fds+1, n)
		}
		if err := w.Remove(e.ID); err != nil {
			t.Error(err)
		}
	}
}

// B36: the error names address, port and cause, and what to do.
func TestB36_BindErrors(t *testing.T) {
	w := newWorld(t, setting{})
	port := testnet.FreePort(t, TCP, loop4)
	l, err := net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(netip.AddrPortFrom(loop4, port)))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, c := range []struct {
		rule  Rule
		errno unix.Errno
		says  []string
	}{
		{Rule{Host: loop4, HostPort: port}, unix.EADDRINUSE, []string{address(Entry{Rule: Rule{Host: loop4, HostPort: port}}).String(), "tcp", "in use"}},
		{Rule{Host: netip.IPv4Unspecified(), HostPort: port}, unix.EADDRINUSE, []string{"0.0.0.0:", "in use"}},
		{Rule{Proto: UDP, Host: netip.MustParseAddr("192.0.2.77"), HostPort: port}, unix.EADDRNOTAVAIL, []string{"udp 192.0.2.77:", "assign"}},
		{Rule{Host: netip.MustParseAddr("2001:db8::77"), HostPort: port}, unix.EADDRNOTAVAIL, []string{"tcp [2001:db8::77]:", "assign"}},
	} {
		_, err := w.Add(ended(), c.rule)
		be, ok := errors.AsType[*BindError](err)
		if !ok || !errors.Is(err, c.errno) || be.Remedy == "" {
			t.Errorf("%v: %v, want %v and a remedy", c.rule, err, c.errno)
			continue
		}
		for _, word := range append(c.says, c.rule.String(), be.Remedy) {
			if !strings.Contains(err.Error(), word) {
				t.Errorf("%v: %q does not say %q", c.rule, err, word)
			}
		}
	}
}

// The remedies, also of what a test that runs as root is never refused.
func TestBindErrorTexts(t *testing.T) {
	at := func(port uint16) netip.AddrPort { return netip.AddrPortFrom(loop4, port) }
	for _, c := range []struct {
		err  error
		want string
	}{
		{bindError(place{proto: TCP, addr: at(80)}, unix.EACCES), "listen on tcp 127.0.0.1:80: permission denied (ports below 1024 are closed to this user: as root, sysctl -w net.ipv4.ip_unprivileged_port_start=80)"},
		{bindError(place{proto: UDP, addr: at(8080)}, unix.EACCES), "listen on udp 127.0.0.1:8080: permission denied"},
		{bindError(place{proto: TCP, addr: at(80)}, unix.EADDRINUSE), "listen on tcp 127.0.0.1:80: address already in use (another program has the port)"},
		{bindError(place{proto: TCP, addr: at(80)}, unix.EADDRNOTAVAIL), "listen on tcp 127.0.0.1:80: cannot assign requested address (no interface of this machine has the address)"},
		{bindError(place{proto: TCP, addr: at(80)}, unix.EMFILE), "listen on tcp 127.0.0.1:80: too many open files (raise the limit of open files, ulimit -n)"},
		{bindError(place{proto: TCP, addr: at(80)}, unix.EAFNOSUPPORT), "listen on tcp 127.0.0.1:80: address family not supported by protocol"},
	} {
		if got := c.err.Error(); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}

// B5: a port whose owner is about to go is waited for; one that stays busy is
// an error after two seconds, and the caller may be less patient.
func TestB5_BusyPortIsTriedAgain(t *testing.T) {
	w := newWorld(t, setting{})
	for _, proto := range []string{TCP, UDP} {
		at := netip.AddrPortFrom(loop4, testnet.FreePort(t, proto, loop4))
		fd, errno := tryBind(proto, at)
		if errno != 0 {
			t.Fatal(errno)
		}
		time.AfterFunc(300*time.Millisecond, func() { unix.Close(fd) })
		begin := time.Now()
		e, err := w.Add(t.Context(), Rule{Proto: proto, Host: loop4, HostPort: at.Port()})
		if took := time.Since(begin); err != nil || took > time.Second {
			t.Fatalf("%v after %v", err, took)
		}
		if err := w.Remove(e.ID); err != nil {
			t.Fatal(err)
		}
		busy, errno := tryBind(proto, at)
		if errno != 0 {
			t.Fatal(errno)
		}
		defer unix.Close(busy)
		begin = time.Now()
		_, err = w.Add(t.Context(), e.Rule)
		if took := time.Since(begin); !errors.Is(err, unix.EADDRINUSE) || took < bindPatience || took > 2*bindPatience {
			t.Errorf("a port that stays busy: %v after %v", err, took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		begin = time.Now()
		_, err = w.Add(ctx, e.Rule)
		cancel()
		if took := time.Since(begin); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, unix.EADDRINUSE) || took > time.Second {
			t.Errorf("with a context of 50 ms: %v after %v", err, took)
		}
	}
}

// B36: a port that another rule of ours has is not waited for, neither by Add
// nor among rules that are bound together, which then are not bound at all.
func TestB36_RulesInEachOthersWay(t *testing.T) {
	w := newWorld(t, setting{})
	port := freeRange(t, netip.IPv4Unspecified(), 10)
	any4, any6, loop6 := netip.IPv4Unspecified(), netip.IPv6Unspecified(), netip.IPv6Loopback()
	first := Rule{Host: any4, HostPort: port, HostPortEnd: port + 4, GuestPort: 80}
	for _, c := range []struct {
		name string
		rule Rule
		busy uint16 // 0: not in the way
	}{
		{"the same", first, port},
		{"overlapping", Rule{Host: any4, HostPort: port + 4, HostPortEnd: port + 6}, port + 4},
		{"one of its addresses", Rule{Host: loop4, HostPort: port + 2}, port + 2},
		{"by default", Rule{HostPort: port + 1, GuestPort: 99}, port + 1},
		{"by interface", Rule{Interface: "lo", HostPort: port}, port},
		{"beside", Rule{Host: any4, HostPort: port + 5}, 0},
		{"UDP", Rule{Proto: UDP, Host: any4, HostPort: port}, 0},
		{"IPv6", Rule{Host: any6, HostPort: port}, 0},
		{"IPv6 loopback", Rule{Host: loop6, HostPort: port}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			begin := time.Now()
			bound, err := Bind(t.Context(), w.Plan, []Rule{first, c.rule})
			for _, b := range bound {
				b.Close()
			}
			e, addErr := w.Add(t.Context(), first)
			if addErr != nil {
				t.Fatal(addErr) // Bind has left something
			}
			defer w.Remove(e.ID)
			e2, addErr := w.Add(t.Context(), c.rule)
			if addErr == nil {
				defer w.Remove(e2.ID)
			}
			if took := time.Since(begin); took > bindPatience/2 {
				t.Errorf("took %v", took)
			}
			for _, err := range []error{err, addErr} {
				be, ok := errors.AsType[*BindError](err)
				if ok != (c.busy != 0) || err != nil && !ok {
					t.Errorf("%v, want it in the way: %v", err, c.busy != 0)
				} else if ok && (be.Errno != unix.EADDRINUSE || be.Addr.Port() != c.busy || !strings.Contains(err.Error(), "published by "+e.Rule.String()+" already")) {
					t.Errorf("%v, want port %d", err, c.busy)
				}
			}
		})
	}
}
