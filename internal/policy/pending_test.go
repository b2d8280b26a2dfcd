package policy

import (
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"epiphyte/internal/flow"
)

// Everybody who waits is told once, in the order of asking, but for those who have
// given up; also by somebody who is being told.
func TestPending(t *testing.T) {
	var p Pending
	var told []string
	wait := func(name string) (forget func()) {
		return p.Then(func(d Decision) {
			if d.Action != Refuse || d.Errno != unix.EACCES {
				t.Errorf("%s was told %+v", name, d)
			}
			told = append(told, name)
		})
	}
	wait("first")
	forgetSecond := wait("second")
	var forgetFifth func()
	p.Then(func(Decision) {
		told = append(told, "third")
		forgetFifth()
	})
	wait("fourth")
	forgetFifth = wait("fifth")
	wait("sixth")
	forgetSecond()
	forgetSecond()
	p.Resolve(refuse(unix.EACCES))
	want := []string{"first", "third", "fourth", "sixth"}
	if !slices.Equal(told, want) {
		t.Errorf("told %v, want %v", told, want)
	}
	p.Resolve(refuse(unix.EACCES))
	forgetFifth()
	if !slices.Equal(told, want) {
		t.Errorf("told again: %v", told)
	}
}

// Who gives up leaves nothing behind.
func TestPendingDoesNotGrow(t *testing.T) {
	var p Pending
	for range 1000 {
		p.Then(func(Decision) { t.Error("told though it gave up") })()
	}
	if n := p.waiting.Len(); n != 0 {
		t.Errorf("%d are left of those who gave up", n)
	}
	p.Resolve(Decision{})
}

// TestBacklogIsBounded: by the number of packets over all decisions, and by the
// size of each; told ones make room.
func TestBacklogIsBounded(t *testing.T) {
	var b Backlog
	var one, two Pending
	told := 0
	tell := func(Decision) { told++ }
	if b.Hold(nil, &one, backlogBytes+1, tell) || b.Room(nil, backlogBytes+1) {
		t.Errorf("a packet of %d bytes waits, the bound is %d", backlogBytes+1, backlogBytes)
	}
	held := 0
	for i := range 3 * backlogMax {
		p := &one
		if i%2 == 1 {
			p = &two
		}
		room := b.Room(nil, backlogBytes)
		if b.Hold(nil, p, backlogBytes, tell) {
			held++
		}
		if room != (i < backlogMax) || held != min(i+1, backlogMax) {
			t.Fatalf("after %d packets %d wait, room before the last %v; the bound is %d", i+1, held, room, backlogMax)
		}
	}
	one.Resolve(Decision{})
	if told != backlogMax/2 {
		t.Errorf("%d told by one of two decisions, want %d", told, backlogMax/2)
	}
	for i := range backlogMax {
		if got, want := b.Hold(nil, &one, 0, tell), i < backlogMax/2; got != want {
			t.Fatalf("packet %d after half were told: waits %v, want %v", i, got, want)
		}
	}
	one.Resolve(Decision{})
	two.Resolve(Decision{})
	if want := backlogMax + backlogMax/2; told != want {
		t.Errorf("%d told in all, want %d", told, want)
	}
	if !b.Room(nil, 0) {
		t.Error("no room with nobody waiting")
	}
}

// TestBacklogIsShared: no number of guests that have as many packets wait as they can keeps
// another's first ones from waiting, and all together are bounded.
func TestBacklogIsShared(t *testing.T) {
	var b Backlog
	var p Pending
	held := 0
	fill := func() (n int) {
		g := new(flow.Guest)
		for ; b.Hold(g, &p, backlogBytes, func(Decision) { held-- }); n++ {
			held++
		}
		return n
	}
	const greedy = 100
	for i := range greedy {
		if n := fill(); i < backlogAll/backlogMax && n != backlogMax || n < backlogOwn {
			t.Errorf("guest %d finds room for %d packets", i+1, n)
		}
	}
	if most := backlogAll + greedy*backlogOwn; held > most {
		t.Errorf("%d packets wait, want %d at most", held, most)
	}
	p.Resolve(Decision{})
	if held != 0 || b.all != 0 || len(b.waiting) != 0 {
		t.Errorf("%d wait still: %+v", held, b)
	}
}
