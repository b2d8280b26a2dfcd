package portfwd

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"epiphyte/forwarder/forwardertest"
)

// What a rule leaves open is filled in, and List tells it.
func TestAddFillsIn(t *testing.T) {
	w := newWorld(t, setting{})
	port := freePort(t, TCP, loop4)
	for _, c := range []struct{ give, want Rule }{
		{
			Rule{HostPort: port},
			Rule{Proto: TCP, Host: netip.IPv4Unspecified(), HostPort: port, Guest: w.plan.Guest, GuestPort: port},
		},
		{
			Rule{Proto: UDP, Interface: "lo", HostPort: port, GuestPort: 53},
			Rule{Proto: UDP, Host: loop4, HostPort: port, Guest: w.plan.Guest, GuestPort: 53},
		},
		{
			// The guest's IPv6 address is its own choice, and may change.
			Rule{Host: netip.IPv6Loopback(), HostPort: port, GuestPort: 80},
			Rule{Proto: TCP, Host: netip.IPv6Loopback(), HostPort: port, GuestPort: 80},
		},
		{
			Rule{Proto: UDP, Host: netip.MustParseAddr("127.0.0.2"), HostPort: port, HostPortEnd: port, Guest: netip.MustParseAddr("10.0.2.7")},
			Rule{Proto: UDP, Host: netip.MustParseAddr("127.0.0.2"), HostPort: port, HostPortEnd: port, Guest: netip.MustParseAddr("10.0.2.7"), GuestPort: port},
		},
	} {
		e, err := w.Add(t.Context(), c.give)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c.want, e.Rule, compareAddr); diff != "" {
			t.Errorf("%v became:\n%s", c.give, diff)
		}
		if list := w.List(); len(list) == 0 || list[len(list)-1] != e {
			t.Errorf("added %+v, listed %+v", e, list)
		}
	}
}

// Errors of the rule by itself, of the plan and of the machine's interfaces.
func TestAddRefuses(t *testing.T) {
	w := newWorld(t, setting{noIPv6: true})
	for _, c := range []struct {
		rule  Rule
		field string
		says  string
	}{
		{Rule{}, "host_port", ""},
		{Rule{HostPort: 80, Proto: "sctp"}, "proto", "sctp"},
		{Rule{HostPort: 80, Interface: "nosuch0"}, "host_addr", "nosuch0"},
		{Rule{HostPort: 80, Interface: "lo", Host: loop4}, "host_addr", "lo"},
		{Rule{HostPort: 80, Host: netip.IPv6Loopback()}, "host_addr", "IPv6 is not enabled"},
		{Rule{HostPort: 80, Host: netip.IPv6Loopback(), Guest: netip.MustParseAddr("fd00::64")}, "host_addr", "IPv6 is not enabled"},
	} {
		e, err := w.Add(t.Context(), c.rule)
		fe, ok := errors.AsType[*FieldError](err)
		if !ok || fe.Field != c.field || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%+v: %+v, %v, want an error of %s that says %q", c.rule, e, err, c.field, c.says)
		}
	}
	if list := w.List(); len(list) > 0 {
		t.Errorf("published all the same: %+v", list)
	}
}

// Ids count from 1, are never given twice, and order the list.
func TestIDsAreNeverReused(t *testing.T) {
	w := newWorld(t, setting{})
	wantIDs := func(want ...int) {
		t.Helper()
		var got []int
		for _, e := range w.List() {
			got = append(got, e.ID)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("ids:\n%s", diff)
		}
	}
	for want := 1; want <= 12; want++ { // more than one digit, for the order
		if e := w.publish(TCP, loop4, 80); e.ID != want {
			t.Errorf("id %d, want %d", e.ID, want)
		}
	}
	for _, id := range []int{12, 3, 1} {
		if err := w.Remove(id); err != nil {
			t.Error(err)
		}
		if err := w.Remove(id); !errors.Is(err, ErrNoRule) {
			t.Errorf("removed again: %v", err)
		}
	}
	for _, id := range []int{0, -1, 13} {
		if err := w.Remove(id); !errors.Is(err, ErrNoRule) {
			t.Errorf("remove %d: %v, want %v", id, err, ErrNoRule)
		}
	}
	busy := w.List()[0]
	if _, err := w.Add(ended(), busy.Rule); err == nil {
		t.Error("a busy port was published again")
	}
	if e := w.publish(UDP, loop4, 80); e.ID != 13 {
		t.Errorf("id %d after a removal, want 13", e.ID)
	}
	wantIDs(2, 4, 5, 6, 7, 8, 9, 10, 11, 13)
}

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
	t.Skipf("there are no %d free ports in a row", n)
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
		fds := forwardertest.Descriptors(t)
		rule := Rule{Proto: proto, Host: loop4, HostPort: first, HostPortEnd: first + n - 1}
		e, err := w.Add(ended(), rule)
		be, ok := errors.AsType[*BindError](err)
		if !ok || be.Addr != busy || be.Errno != unix.EADDRINUSE || be.Proto != proto {
			t.Errorf("%+v, %v, want a *BindError of %v", e, err, busy)
		}
		if got := forwardertest.Descriptors(t); got != fds || len(w.List()) != 0 {
			t.Errorf("left of a range that failed: %d descriptors, %+v", got-fds, w.List())
		}
		unix.Close(fd)
		if e, err = w.Add(ended(), rule); err != nil {
			t.Fatalf("the same ports, all free: %v", err)
		}
		if got := forwardertest.Descriptors(t); got != fds-1+n {
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
	port := freePort(t, TCP, loop4)
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
		{bindError(TCP, at(80), unix.EACCES), "listen on tcp 127.0.0.1:80: permission denied (ports below 1024 are closed to this user: as root, sysctl -w net.ipv4.ip_unprivileged_port_start=80)"},
		{bindError(UDP, at(8080), unix.EACCES), "listen on udp 127.0.0.1:8080: permission denied"},
		{bindError(TCP, at(80), unix.EADDRINUSE), "listen on tcp 127.0.0.1:80: address already in use (another program has the port)"},
		{bindError(TCP, at(80), unix.EADDRNOTAVAIL), "listen on tcp 127.0.0.1:80: cannot assign requested address (no interface of this machine has the address)"},
		{bindError(TCP, at(80), unix.EMFILE), "listen on tcp 127.0.0.1:80: too many open files (raise the limit of open files, ulimit -n)"},
		{bindError(TCP, at(80), unix.EAFNOSUPPORT), "listen on tcp 127.0.0.1:80: address family not supported by protocol"},
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
		at := netip.AddrPortFrom(loop4, freePort(t, proto, loop4))
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
			bound, err := Bind(t.Context(), w.plan, []Rule{first, c.rule})
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

// B32: a thousand ports are there within 300 ms, at one descriptor and less
// than 1 kB each, and no goroutine.
func TestB32_ThousandPorts(t *testing.T) {
	w := newWorld(t, setting{})
	const n = 1000
	first := freeRange(t, loop4, n)
	w.publish(TCP, loop4, 1) // pays for what comes once
	w.publish(UDP, loop4, 1)
	for _, proto := range []string{TCP, UDP} {
		fds, routines, heap := forwardertest.Descriptors(t), runtime.NumGoroutine(), heapInUse()
		begin := time.Now()
		e, err := w.Add(t.Context(), Rule{Proto: proto, Host: loop4, HostPort: first, HostPortEnd: first + n - 1})
		if err != nil {
			t.Fatal(err)
		}
		w.onShard(func() {}) // all of them are watched
		took := time.Since(begin)
		perPort := (heapInUse() - heap) / n
		t.Logf("%s: %d ports in %v, %d bytes each", proto, n, took, perPort)
		if took > 300*time.Millisecond {
			t.Errorf("%s: %d ports took %v", proto, n, took)
		}
		if perPort > 1000 {
			t.Errorf("%s: %d bytes per port", proto, perPort)
		}
		if got := forwardertest.Descriptors(t) - fds; got != n {
			t.Errorf("%s: %d descriptors for %d ports", proto, got, n)
		}
		if got := runtime.NumGoroutine(); got > routines {
			t.Errorf("%s: %d goroutines, %d before", proto, got, routines)
		}
		if err := w.Remove(e.ID); err != nil {
			t.Fatal(err)
		}
		if got := forwardertest.Descriptors(t); got != fds {
			t.Errorf("%s: %d descriptors left", proto, got-fds)
		}
	}
}

func heapInUse() int64 {
	runtime.GC()
	runtime.GC() // what finalizers let go of
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// Any goroutine may add, remove and list, while the guest is served.
func TestConcurrentUse(t *testing.T) {
	w := newWorld(t, setting{})
	first := freeRange(t, loop4, 100)
	var all sync.WaitGroup
	for i := range uint16(10) {
		all.Go(func() {
			for j := range uint16(10) {
				e, err := w.Add(t.Context(), Rule{Host: loop4, HostPort: first + 10*i + j})
				if err != nil {
					t.Error(err)
					return
				}
				w.List()
				if err := w.Remove(e.ID); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if list := w.List(); len(list) > 0 {
		t.Errorf("left: %+v", list)
	}
}

// silent4 is an address of the guest's subnet that nobody answers for.
var silent4 = netip.MustParseAddr("10.0.2.7")

// Close closes what was added, whether or not it was served; after it nothing
// can be added.
func TestClose(t *testing.T) {
	for _, idle := range []bool{false, true} {
		w := newWorld(t, setting{idle: idle})
		fds := forwardertest.Descriptors(t)
		udp := w.publish(UDP, loop4, 80)
		tcp, err := w.Add(t.Context(), Rule{Host: loop4, HostPort: freePort(t, TCP, loop4), Guest: silent4})
		if err != nil {
			t.Fatal(err)
		}
		c := dial(t, address(tcp))
		if !idle {
			w.eventually("a client that waits", func() bool { return len(w.attempts) == 1 })
		}
		c.Close()
		w.stop()
		w.Close()
		w.Close()
		if _, err := w.Add(t.Context(), udp.Rule); !errors.Is(err, net.ErrClosed) {
			t.Errorf("added after Close: %v", err)
		}
		if err := w.Remove(udp.ID); !errors.Is(err, ErrNoRule) {
			t.Errorf("removed after Close: %v", err)
		}
		if len(w.List()) > 0 {
			t.Errorf("listed after Close: %+v", w.List())
		}
		if got := forwardertest.Descriptors(t); got > fds {
			t.Errorf("idle %v: %d descriptors left", idle, got-fds)
		}
	}
}

// A rule that is removed when the shard does not serve any more is gone with
// Close at the latest, and nobody waits for ever.
func TestRemoveWhenServingHasEnded(t *testing.T) {
	w := newWorld(t, setting{})
	fds := forwardertest.Descriptors(t)
	e := w.publish(TCP, loop4, 80)
	w.stop()
	removed := make(chan error, 1)
	go func() { removed <- w.Remove(e.ID) }()
	// Once the rule is off the list, Remove waits for the shard.
	if !forwardertest.Within(patience, func() bool { return len(w.List()) == 0 }) {
		t.Fatal("the rule is still listed")
	}
	w.Close()
	select {
	case <-removed:
	case <-time.After(2 * time.Second):
		t.Error("Remove does not return")
	}
	if got := forwardertest.Descriptors(t); got > fds {
		t.Errorf("%d descriptors left", got-fds)
	}
}
