package stack

import (
	"math/rand"
	"testing"
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
			b.free += 2 * (held[i] - minShare)
			held[i] = held[len(held)-1]
			held = held[:len(held)-1]
			continue
		}
		n := b.take()
		if n < minShare || n > maxShare {
			t.Fatalf("connection of %d bytes each way", n)
		}
		held = append(held, n)
		sum := 0
		for _, n := range held {
			sum += 2 * (n - minShare)
		}
		if sum > total || b.free != total-sum || b.free < 0 {
			t.Fatalf("%d connections hold %d bytes beyond their minimum, %d free, budget %d", len(held), sum, b.free, total)
		}
	}
	for _, n := range held {
		b.free += 2 * (n - minShare)
	}
	if b.free != total {
		t.Errorf("%d bytes free at the end, %d at the beginning", b.free, total)
	}
}

// The first connections are not held up by those to come, nor starved by those
// before.
func TestBudgetShares(t *testing.T) {
	b := budget{free: 512 << 20}
	if n := b.take(); n != maxShare {
		t.Errorf("the first connection gets %d bytes, want the maximum", n)
	}
	last := maxShare
	for i := range 10000 {
		n := b.take()
		if n > last {
			t.Fatalf("connection %d gets %d bytes, the one before %d", i, n, last)
		}
		last = n
	}
	if last != minShare {
		t.Errorf("the last of 10000 gets %d bytes, want the minimum", last)
	}
	small := budget{free: 1}
	if n := small.take(); n != minShare || small.free != 1 {
		t.Errorf("a budget of one byte gives %d and keeps %d", n, small.free)
	}
}
