package tap

import (
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Each queue carries frames both ways, with the properties of the first; all end with
// the device.
func TestQueues(t *testing.T) {
	for _, plain := range []bool{false, true} {
		g := newGuest(t, nesting{})
		d, err := Open(t.Context(), Config{Target: Target{PID: g.pid}, Name: "tap0", Queues: 3, NoOffload: plain, Configure: network()})
		if err != nil {
			t.Fatal(err)
		}
		queues := d.Queues()
		if len(queues) != 3 || queues[0] != d || d.VNetHdr() == plain || d.Offload() == plain {
			t.Fatalf("%d queues: %+v", len(queues), infoOf(d))
		}
		if !g.link("tap0").MultiQueue {
			t.Error("the interface is of the kind with one queue")
		}
		for i, q := range queues {
			if infoOf(q) != infoOf(d) || i > 0 && q.FD() == d.FD() {
				t.Errorf("queue %d: %+v, want %+v", i, infoOf(q), infoOf(d))
			}
			exchangeARPBy(t, q, d.Queues()...)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		for i, q := range queues {
			if q.FD() >= 0 {
				t.Errorf("queue %d is open", i)
			}
		}
		if g.link("tap0").Exists {
			t.Error("the interface is left")
		}
	}
}

// One queue, asked for or not, is a device of the ordinary kind.
func TestQueues_One(t *testing.T) {
	for _, n := range []int{0, 1} {
		g := newGuest(t, nesting{})
		d := open(t, Config{Target: Target{PID: g.pid}, Name: "tap0", Queues: n})
		if len(d.Queues()) != 1 || g.link("tap0").MultiQueue {
			t.Errorf("%d: %d queues, %+v", n, len(d.Queues()), g.link("tap0"))
		}
	}
}

// A device that somebody made for several queues takes several, again and again; one
// that was made for one is refused at once and left as it was.
func TestQueues_ExistingDevice(t *testing.T) {
	g := newGuest(t, nesting{})
	g.do(command{Do: "add-mq", Name: "tap0"})
	cfg := Config{Target: Target{PID: g.pid}, Name: "tap0", Queues: 2, Configure: network()}
	for range 3 {
		d, err := Open(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		for _, q := range d.Queues() {
			exchangeARPBy(t, q, d.Queues()...)
		}
		d.Close()
		if link := g.link("tap0"); !link.Exists || !link.Persistent || link.TSO {
			t.Fatalf("the caller's device must outlive us, as it was: %+v", link)
		}
	}

	g = newGuest(t, nesting{})
	g.do(command{Do: "add", Name: "tap0"})
	cfg.Target.PID = g.pid
	before := g.link("tap0")
	_, err := Open(t.Context(), cfg)
	if !errors.Is(err, unix.EINVAL) || !strings.Contains(err.Error(), "single queue") {
		t.Errorf("a device for one queue: %v", err)
	}
	if after := g.link("tap0"); after.Up != before.Up || after.MTU != before.MTU || len(after.Addrs) > 0 || !after.Persistent {
		t.Errorf("it was %+v, and is %+v", before, after)
	}
}

func TestQueues_Refused(t *testing.T) {
	for _, tc := range []struct {
		cfg  Config
		says string
	}{
		{Config{Target: Target{PID: 1}, Queues: MaxQueues + 1}, "17 queues: a device has 1 to 16"},
		{Config{Target: Target{PID: 1}, Queues: -1}, "-1 queues: a device has 1 to 16"},
		{Config{Target: Target{FD: 9}, Queues: 2}, "use fd 9: a descriptor is one queue: ask for no more"},
	} {
		if d, err := Open(t.Context(), tc.cfg); err == nil || err.Error() != "open TAP: "+tc.says {
			t.Errorf("%+v: %v, %v, want %q", tc.cfg, d, err, tc.says)
		}
	}
}
