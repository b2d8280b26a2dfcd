package bridge

import (
	"slices"
	"testing"
	"time"
)

// push has a member send n bytes.
func (k *talk) push(from, n int) {
	k.t.Helper()
	k.say(from, segment{seq: 1, ack: 1, data: make([]byte, n)})
}

// pass lets time pass.
func (k *talk) pass(d time.Duration) {
	k.t.Helper()
	k.clock.Advance(d)
	k.turn()
}

// follow has the ports followed once more, by what either says is busy.
func (k *talk) follow(first, second uint64) {
	k.ports[0].Follow(first)
	k.ports[1].Follow(second)
}

// A connection is busy when it has moved as much as both ports say, or has sent as often.
func TestBusy(t *testing.T) {
	const much = 24 * turnCost
	for name, tc := range map[string]struct {
		first, second uint64 // busy after
		size          int    // of the segments, of which each member sends one in turn
		want          int    // segments
		bulk          bool
	}{
		"by its bytes":          {much, much, 2*turnCost - 1, 9, true}, // which are two thirds of what counts
		"in large segments":     {much, much, 60000, 2, true},
		"by half in bytes":      {much, much, turnCost, 12, true},
		"by less than half":     {much, much, turnCost - 512, 13, false},
		"by its turns":          {much, much, 1, 24, false},
		"as the first one says": {2 * much, much, 1, 48, false},
		"as the second says":    {much, 2 * much, 1, 48, false},
		"at once":               {0, 0, 1, 1, true},
		"at once for one":       {0, much, 1, 24, false},
	} {
		k := newTalk(t, Config{})
		k.follow(tc.first, tc.second)
		c := k.open()
		for i := range tc.want {
			if len(k.busy) > 0 {
				t.Fatalf("%s: busy after %d segments, want %d", name, i, tc.want)
			}
			k.push(i%2, tc.size)
		}
		if len(k.busy) != 1 || k.busy[0] != c {
			t.Fatalf("%s: after %d segments Busy was called %d times", name, tc.want, len(k.busy))
		}
		if c.Bulk() != tc.bulk {
			t.Errorf("%s: in bulk %v", name, c.Bulk())
		}
	}
}

// Acknowledgements alone are no sign of a program that waits.
func TestNotBusyByAcknowledgements(t *testing.T) {
	k := newTalk(t, Config{})
	k.follow(0, 0)
	k.open()
	for range 1000 {
		k.say(0, segment{seq: 1, ack: 1})
		k.say(1, segment{seq: 1, ack: 1})
	}
	if len(k.busy) > 0 {
		t.Error("busy")
	}
	k.push(0, 1)
	if len(k.busy) != 1 {
		t.Errorf("after a byte Busy was called %d times", len(k.busy))
	}
}

// A member can be spoken to before it has answered: then nobody knows what it has received.
func TestNotBusyBeforeBothTalk(t *testing.T) {
	k := newTalk(t, Config{})
	k.follow(0, 0)
	k.say(0, segment{flags: flagSYN})
	k.say(1, segment{flags: flagSYNACK, ack: 1})
	for range 10 {
		k.push(0, 1000)
	}
	if len(k.busy) > 0 {
		t.Fatal("busy before the second one has said anything")
	}
	k.push(1, 1000)
	if len(k.busy) != 1 {
		t.Errorf("Busy was called %d times", len(k.busy))
	}
}

// It is busy if it was fast: what has taken longer than a second counts no more.
func TestBusyWithinASecond(t *testing.T) {
	const segments = 10
	const much = segments * (turnCost + 1000)
	for name, tc := range map[string]struct {
		first uint64        // busy after
		pause time.Duration // before each segment
		want  int           // times busy, in 30 segments
	}{
		"at once":               {much, 0, 3},
		"just in time":          {much, busyWithin / segments, 3},
		"too slow":              {much, busyWithin/segments + time.Millisecond, 0},
		"with long gaps":        {much, time.Hour, 0},
		"for nothing, that too": {0, time.Hour, 30},
	} {
		k := newTalk(t, Config{})
		k.follow(tc.first, 0)
		k.open()
		for range 3 * segments {
			k.pass(tc.pause)
			k.push(0, 1000)
		}
		if len(k.busy) != tc.want {
			t.Errorf("%s: busy %d times, want %d", name, len(k.busy), tc.want)
		}
	}
	t.Run("after a rest", func(t *testing.T) {
		k := newTalk(t, Config{})
		k.follow(much, 0)
		k.open()
		k.pass(time.Minute)
		for i := range 2 * segments { // those that show that it was slow, and as many
			if len(k.busy) > 0 {
				t.Fatalf("busy after %d segments", i)
			}
			k.push(0, 1000)
		}
		if len(k.busy) != 1 {
			t.Errorf("Busy was called %d times", len(k.busy))
		}
	})
}

// Busy is called again when the connection has moved as much again, or twice as much after
// Stay, and not while it is handed over.
func TestBusyAgain(t *testing.T) {
	const piece = 60000
	const cost = piece + turnCost
	for name, tc := range map[string]struct {
		first uint64
		stay  bool
		want  []int // segments before each call
	}{
		"as much again":              {4 * cost, false, []int{4, 4, 4}},
		"at once, again":             {0, false, []int{1, 1, 1}},
		"twice as much":              {20 * cost, true, []int{20, 40, 80}},
		"a megabyte, twice as much":  {2 * cost, true, []int{2, (minBusy + cost - 1) / cost, (2*minBusy + cost - 1) / cost}},
		"at once, then a megabyte":   {0, true, []int{1, (minBusy + cost - 1) / cost}},
		"half a megabyte, and twice": {minBusy/2 + cost, true, []int{9 + 1, 2*9 + 1}},
	} {
		k := newTalk(t, Config{})
		k.follow(tc.first, 0)
		c := k.open()
		for call, want := range tc.want {
			n := 0
			for len(k.busy) == call && n <= want {
				k.push(n%2, piece)
				n++
			}
			if n != want {
				t.Errorf("%s: call %d after %d segments, want %d", name, call, n, want)
				break
			}
			if tc.stay {
				c.Stay()
			}
		}
	}
	t.Run("not while somebody waits", func(t *testing.T) {
		k := newTalk(t, Config{})
		k.follow(0, 0)
		c := k.open()
		passed := 0
		c.Await(func() { passed++ })
		for i := range 10 {
			k.push(i%2, piece)
		}
		k.say(0, segment{seq: 1, ack: 1})
		if len(k.busy) > 0 || passed != 11 {
			t.Errorf("Busy was called %d times, and of 11 segments %d were told", len(k.busy), passed)
		}
		c.Await(nil)
		k.push(0, 1)
		if len(k.busy) != 1 || passed != 11 {
			t.Errorf("later Busy was called %d times, and %d were told", len(k.busy), passed)
		}
	})
}

// Who has sent more, and whether in bulk, is asked while Busy runs, each time anew.
func TestSender(t *testing.T) {
	for _, order := range [][2]int{{0, 1}, {1, 0}} {
		type answer struct {
			sender int
			bulk   bool
		}
		var got []answer
		k := newTalk(t, Config{})
		k.bridge.cfg.Busy = func(c *Conn) { got = append(got, answer{c.Sender(), c.Bulk()}) }
		k.follow(0, 4*turnCost)
		k.open()
		for i, from := range order {
			k.push(1-from, 10)
			k.push(from, []int{2 * turnCost, turnCost}[i])
			for len(got) == i {
				k.push(from, 10)
			}
		}
		if want := []answer{{order[0], true}, {order[1], false}}; !slices.Equal(got, want) {
			t.Errorf("%d sends, and then %d less: told %v, want %v", order[0], order[1], got, want)
		}
	}
}
