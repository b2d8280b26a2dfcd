package egress

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"
	"time"
)

func bind(t testing.TB, n *Names, name string) *Binding {
	t.Helper()
	b := n.Bind(name, Verdict{Allow: true}, 0)
	if b == nil {
		t.Fatalf("%s gets no address", name)
	}
	return b
}

// A name keeps its addresses, and they lead back to it alone.
func TestNames(t *testing.T) {
	var n Names
	a, b := bind(t, &n, "a.example"), bind(t, &n, "b.example")
	if a == b || bind(t, &n, "a.example") != a || a.Addr4() != netip.MustParseAddr("198.18.0.1") || b.Addr4() != netip.MustParseAddr("198.18.0.2") {
		t.Errorf("%v %v", a.Addr4(), b.Addr4())
	}
	for _, addr := range []netip.Addr{b.Addr4(), b.Addr6()} {
		if !IsSynthetic(addr) || n.Find(addr) != b {
			t.Errorf("%v leads to %v", addr, n.Find(addr))
		}
	}
	for _, s := range []string{"198.18.0.0", "198.18.0.3", "198.19.255.255", "198.20.0.1", "fd3b:91c7:5e2a:1::3", "fd3b:91c7:5e2a:1:1::1", "fd3b:91c7:5e2a:2::1", "2001:db8::1"} {
		if b := n.Find(netip.MustParseAddr(s)); b != nil {
			t.Errorf("%s leads to %s", s, b.Name)
		}
	}
}

// At the bound, a name without flows gives way, the least recently used, and its address
// is not another's before all others were used.
func TestNamesGiveWay(t *testing.T) {
	n := Names{Max: 3}
	a := bind(t, &n, "a.example")
	n.Hold(a)
	old := bind(t, &n, "b.example")
	bind(t, &n, "c.example")
	bind(t, &n, "d.example")
	if n.Find(old.Addr4()) != nil || n.Find(a.Addr4()) != a {
		t.Error("not the least recently used name without a flow gave way")
	}
	for i := range synthetic - 4 {
		if b := bind(t, &n, fmt.Sprint("x", i, ".example")); b.id == old.id || b.id == a.id {
			t.Fatalf("after %d names the address is another's", i)
		}
	}
	if b := bind(t, &n, "y.example"); b.id == a.id {
		t.Error("the address of a name with flows is another's")
	}
	n.Release(a)
	bind(t, &n, "z1.example")
	bind(t, &n, "z2.example")
	bind(t, &n, "z3.example")
	if n.Find(a.Addr4()) == a {
		t.Error("a name without flows did not give way")
	}
	for _, name := range []string{"z1.example", "z2.example", "z3.example"} {
		n.Hold(bind(t, &n, name))
	}
	if n.Bind("late.example", Verdict{}, 0) != nil {
		t.Error("there is room for a name though all have flows")
	}
}

// Below a star, new names are few in a minute; known ones are always there.
func TestNamesBelowAStar(t *testing.T) {
	p, err := Parse(Source{"file", "allow *.example.com:443\nallow *.example.org:443"})
	if err != nil {
		t.Fatal(err)
	}
	var n Names
	ask := func(name string, now time.Duration) bool { return n.Bind(name, p.DecideName(name), now) != nil }
	for i := range starNames {
		if !ask(fmt.Sprint(i, ".example.com"), time.Duration(i)) {
			t.Fatalf("name %d is one too many", i)
		}
	}
	for name, want := range map[string]bool{"more.example.com": false, "0.example.com": true, "a.example.org": true} {
		if got := ask(name, time.Minute-1); got != want {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
	if !ask("more.example.com", time.Minute) {
		t.Error("another minute does not count anew")
	}
}

// TestNamesCost: 10 000 names take less than 5 MB.
func TestNamesCost(t *testing.T) {
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	var n Names
	for i := range 10_000 {
		bind(t, &n, fmt.Sprintf("a-name-of-usual-length-%d.region.example.com", i))
	}
	if cost := heap() - before; cost > 5_000_000 {
		t.Errorf("10 000 names take %d bytes", cost)
	} else {
		t.Logf("10 000 names take %d bytes", cost)
	}
	runtime.KeepAlive(&n)
}
