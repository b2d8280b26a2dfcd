package portfwd

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/internal/testnet"
)

func (w *world) wantRules(want ...Rule) {
	w.T.Helper()
	list := w.List()
	if len(list) != len(want) {
		w.T.Fatalf("rules in force: %+v, want %+v", list, want)
	}
	for i := range want {
		if err := want[i].resolve(&w.Plan); err != nil {
			w.T.Fatal(err)
		}
		if list[i].Rule != want[i] {
			w.T.Errorf("rule %d is %+v, want %+v", i, list[i].Rule, want[i])
		}
	}
}

// A change is carried out whole or not at all.
func TestChange(t *testing.T) {
	w := newWorld(t, setting{})
	w.serve(loop4, 80, echo)
	first := freeRange(t, loop4, 6)
	rule := func(i int, to uint16) Rule { return Rule{Host: loop4, HostPort: first + uint16(i), GuestPort: to} }
	at := func(i int) netip.AddrPort { return netip.AddrPortFrom(loop4, first+uint16(i)) }
	change := func(c Change) error { return w.Change(ended(), c) }

	if err := change(Change{Add: []Rule{rule(0, 80), rule(1, 80)}}); err != nil {
		t.Fatal(err)
	}
	// One of the ports leads elsewhere, without being closed meanwhile, and one goes.
	if err := change(Change{Remove: []Rule{rule(0, 80), rule(1, 80)}, Add: []Rule{rule(1, 81), rule(2, 80)}}); err != nil {
		t.Fatal(err)
	}
	w.wantRules(rule(1, 81), rule(2, 80))
	says(t, dial(t, at(2)), "hello")
	if err := refusal(t, at(1)); !isReset(err) {
		t.Errorf("port 81 of the guest: %v", err)
	}
	if fd, errno := tryBind(TCP, at(0)); errno != 0 {
		t.Errorf("the port that went: %v", errno)
	} else {
		unix.Close(fd)
	}

	busy, errno := tryBind(TCP, at(5))
	if errno != 0 {
		t.Fatal(errno)
	}
	defer unix.Close(busy)
	before := testnet.Descriptors(t)
	for name, c := range map[string]struct {
		change Change
		want   error
	}{
		"a port is busy":        {Change{Remove: []Rule{rule(2, 80)}, Add: []Rule{rule(3, 80), rule(5, 80)}}, unix.EADDRINUSE},
		"a rule is there":       {Change{Add: []Rule{rule(3, 80), rule(2, 80)}}, unix.EADDRINUSE},
		"a port is taken":       {Change{Add: []Rule{rule(3, 80), rule(2, 82)}, Lenient: true}, unix.EADDRINUSE},
		"two want one":          {Change{Add: []Rule{rule(3, 80), rule(3, 81)}}, unix.EADDRINUSE},
		"a rule is not there":   {Change{Remove: []Rule{rule(4, 80)}, Add: []Rule{rule(3, 80)}}, ErrNoRule},
		"it leads elsewhere":    {Change{Remove: []Rule{rule(2, 81)}}, ErrNoRule},
		"nothing is exposed":    {Change{Hide: []Exposed{{GuestPort: 80}}, Add: []Rule{rule(3, 80)}}, ErrNoRule},
		"there is no namespace": {Change{Expose: []Exposed{{GuestPort: first + 4}}, Add: []Rule{rule(3, 80)}}, nil},
		"a rule is none":        {Change{Add: []Rule{rule(3, 80), {}}}, nil},
	} {
		if err := change(c.change); err == nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
		w.wantRules(rule(1, 81), rule(2, 80))
	}
	if n := testnet.Descriptors(t); n != before {
		t.Errorf("%d descriptors left", n-before)
	}
	says(t, dial(t, at(2)), "still there")

	// What is said of rules that are there, or are not, is no error if it need not be.
	same := rule(2, 80)
	same.HostPortEnd = same.HostPort
	if err := change(Change{Lenient: true, Add: []Rule{same, rule(3, 80), rule(3, 80)}, Remove: []Rule{rule(4, 80), rule(1, 81)}, Hide: []Exposed{{GuestPort: 80}}}); err != nil {
		t.Fatal(err)
	}
	w.wantRules(rule(2, 80), rule(3, 80))
	if err := change(Change{Remove: []Rule{rule(2, 80)}, Add: []Rule{rule(2, 80)}}); err != nil {
		t.Fatal(err)
	}
	w.wantRules(rule(2, 80), rule(3, 80))
}

// Ports may be exposed while the guest is served.
func TestChangeExposed(t *testing.T) {
	w := newWorld(t, setting{guestSockets: hostSockets})
	port := serveHost(t, loop4, echo)
	e := Exposed{GuestPort: freeRange(t, loop4, 1), HostPort: port}
	if err := w.Change(ended(), Change{Expose: []Exposed{e}}); err != nil {
		t.Fatal(err)
	}
	at := netip.AddrPortFrom(loop4, e.GuestPort)
	says(t, dial(t, at), "hello")
	if err := w.Change(ended(), Change{Expose: []Exposed{e}}); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("exposed twice: %v", err)
	}
	if err := w.Change(ended(), Change{Expose: []Exposed{e}, Lenient: true}); err != nil {
		t.Error(err)
	}
	if err := w.Change(ended(), Change{Hide: []Exposed{e}}); err != nil || len(w.ListExposed()) != 0 {
		t.Errorf("%v, and %v is left", err, w.ListExposed())
	}
	if fd, errno := tryBind(TCP, at); errno != 0 {
		t.Errorf("the port that went: %v", errno)
	} else {
		unix.Close(fd)
	}
}

// A thousand rules come and go in a moment.
func TestChangeThousand(t *testing.T) {
	w := newWorld(t, setting{})
	const n = 1000
	first := freeRange(t, loop4, n)
	var a, b []Rule
	for i := range uint16(n) {
		a = append(a, Rule{Host: loop4, HostPort: first + i, GuestPort: 80})
		b = append(b, Rule{Host: loop4, HostPort: first + i, GuestPort: 81})
	}
	for _, c := range []Change{{Add: a}, {Remove: a, Add: b}, {Remove: b}} {
		begin := time.Now()
		if err := w.Change(ended(), c); err != nil {
			t.Fatal(err)
		}
		took := time.Since(begin)
		t.Logf("%d added, %d removed: %v", len(c.Add), len(c.Remove), took)
		if took > time.Second {
			t.Errorf("took %v", took)
		}
	}
	w.wantRules()
}
