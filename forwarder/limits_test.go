package forwarder

import (
	"math/rand"
	"testing"

	"golang.org/x/sys/unix"
)

// Whatever comes and goes, the buffers beyond each connection's minimum stay
// within the budget, and all of it is there again at the end.
func TestBudget(t *testing.T) {
	const total = 512 << 20
	random := rand.New(rand.NewSource(1))
	b := budget{free: total}
	var held []int
	for range 20000 {
		if len(held) > 0 && random.Intn(5) < 2 {
			i := random.Intn(len(held))
			b.give(held[i])
			held[i] = held[len(held)-1]
			held = held[:len(held)-1]
			continue
		}
		n := b.take()
		if n < minBuffers || n > maxBuffers {
			t.Fatalf("connection of %d bytes each way", n)
		}
		held = append(held, n)
		sum := 0
		for _, n := range held {
			sum += 2 * (n - minBuffers)
		}
		if sum > total || b.free != total-sum || b.free < 0 {
			t.Fatalf("%d connections hold %d bytes beyond their minimum, %d free, budget %d", len(held), sum, b.free, total)
		}
	}
	for _, n := range held {
		b.give(n)
	}
	if b.free != total {
		t.Errorf("%d bytes free at the end, %d at the beginning", b.free, total)
	}
}

// The first connections are not held up by those to come, nor starved by those
// before.
func TestBudgetShares(t *testing.T) {
	b := budget{free: 512 << 20}
	if n := b.take(); n != maxBuffers {
		t.Errorf("the first connection gets %d bytes, want the maximum", n)
	}
	last := maxBuffers
	for i := range 10000 {
		n := b.take()
		if n > last {
			t.Fatalf("connection %d gets %d bytes, the one before %d", i, n, last)
		}
		last = n
	}
	if last != minBuffers {
		t.Errorf("the last of 10000 gets %d bytes, want the minimum", last)
	}
	small := budget{free: 1}
	if n := small.take(); n != minBuffers || small.free != 1 {
		t.Errorf("a budget of one byte gives %d and keeps %d", n, small.free)
	}
}

// The default limits fit into the descriptors that the process may have.
func TestDefaultLimitsFitDescriptors(t *testing.T) {
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	defer unix.Setrlimit(unix.RLIMIT_NOFILE, &old)
	for _, n := range []uint64{256, 1024, 4096, 20000} {
		if n > old.Max {
			continue
		}
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: n, Max: old.Max}); err != nil {
			t.Fatal(err)
		}
		l := Limits{}.withDefaults()
		if sum := l.Dials + l.TCP + l.Mappings; sum > int(n)-reservedFDs || l.Dials < 1 || l.TCP < 1 || l.Mappings < 1 {
			t.Errorf("with %d descriptors: %+v", n, l)
		}
	}
	got := Limits{Dials: 7, TCP: 8, Mappings: 9, BufferBytes: 10}.withDefaults()
	if want := (Limits{Dials: 7, TCP: 8, Mappings: 9, BufferBytes: 10}); got != want {
		t.Errorf("limits that were set became %+v", got)
	}
}
