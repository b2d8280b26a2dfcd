package portfwd

import (
	"errors"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"epiphyte/internal/flow"
	"epiphyte/internal/testnet"
)

// What a rule leaves open is filled in, and List tells it.
func TestAddFillsIn(t *testing.T) {
	w := newWorld(t, setting{})
	port := testnet.FreePort(t, TCP, loop4)
	for _, c := range []struct{ give, want Rule }{
		{
			Rule{HostPort: port},
			Rule{Proto: TCP, Host: netip.IPv4Unspecified(), HostPort: port, Guest: w.Plan.Guest, GuestPort: port},
		},
		{
			Rule{Proto: UDP, Interface: "lo", HostPort: port, GuestPort: 53},
			Rule{Proto: UDP, Host: loop4, HostPort: port, Guest: w.Plan.Guest, GuestPort: 53},
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

// B32: a thousand ports are there within 300 ms, at one descriptor and less
// than 1 kB each, and no goroutine.
func TestB32_ThousandPorts(t *testing.T) {
	w := newWorld(t, setting{})
	const n = 1000
	first := freeRange(t, loop4, n)
	w.publish(TCP, loop4, 1) // pays for what comes once
	w.publish(UDP, loop4, 1)
	for _, proto := range []string{TCP, UDP} {
		fds, routines, heap := testnet.Descriptors(t), runtime.NumGoroutine(), heapInUse()
		begin := time.Now()
		e, err := w.Add(t.Context(), Rule{Proto: proto, Host: loop4, HostPort: first, HostPortEnd: first + n - 1})
		if err != nil {
			t.Fatal(err)
		}
		w.Do(func() {}) // all of them are watched
		took := time.Since(begin)
		perPort := (heapInUse() - heap) / n
		t.Logf("%s: %d ports in %v, %d bytes each", proto, n, took, perPort)
		if took > 5*time.Second {
			t.Errorf("%s: %d ports took %v", proto, n, took)
		}
		if perPort > 1000 {
			t.Errorf("%s: %d bytes per port", proto, perPort)
		}
		if got := testnet.Descriptors(t) - fds; got != n {
			t.Errorf("%s: %d descriptors for %d ports", proto, got, n)
		}
		if got := runtime.NumGoroutine(); got > routines {
			t.Errorf("%s: %d goroutines, %d before", proto, got, routines)
		}
		if err := w.Remove(e.ID); err != nil {
			t.Fatal(err)
		}
		if got := testnet.Descriptors(t); got != fds {
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
		fds := testnet.Descriptors(t)
		udp := w.publish(UDP, loop4, 80)
		tcp, err := w.Add(t.Context(), Rule{Host: loop4, HostPort: testnet.FreePort(t, TCP, loop4), Guest: silent4})
		if err != nil {
			t.Fatal(err)
		}
		c := dial(t, address(tcp))
		if !idle {
			w.eventually("a client that waits", func() bool { return w.Table.Count(flow.Client) == 1 })
		}
		c.Close()
		w.Stop()
		w.Close()
		w.Close()
		w.EndFlows()
		if _, err := w.Add(t.Context(), udp.Rule); !errors.Is(err, net.ErrClosed) {
			t.Errorf("added after Close: %v", err)
		}
		if err := w.Remove(udp.ID); !errors.Is(err, ErrNoRule) {
			t.Errorf("removed after Close: %v", err)
		}
		if len(w.List()) > 0 {
			t.Errorf("listed after Close: %+v", w.List())
		}
		if got := testnet.Descriptors(t); got > fds {
			t.Errorf("idle %v: %d descriptors left", idle, got-fds)
		}
	}
}

// A rule that is removed when the shard does not serve any more is gone with
// Close at the latest, and nobody waits for ever.
func TestRemoveWhenServingHasEnded(t *testing.T) {
	w := newWorld(t, setting{})
	fds := testnet.Descriptors(t)
	e := w.publish(TCP, loop4, 80)
	w.Stop()
	removed := make(chan error, 1)
	go func() { removed <- w.Remove(e.ID) }()
	// Once the rule is off the list, Remove waits for the shard.
	if !testnet.Within(patience, func() bool { return len(w.List()) == 0 }) {
		t.Fatal("the rule is still listed")
	}
	w.Close()
	select {
	case <-removed:
	case <-time.After(2 * time.Second):
		t.Error("Remove does not return")
	}
	if got := testnet.Descriptors(t); got > fds {
		t.Errorf("%d descriptors left", got-fds)
	}
}
