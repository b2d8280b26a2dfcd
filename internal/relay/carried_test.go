package relay

import (
	"io"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"epiphyte/internal/flow"
	"epiphyte/internal/repair"
)

// A connection is handed over for what it moves within a second, whatever the size of its pieces,
// also where others have taken the places of those that exchange much.
func TestBusy(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct {
		piece, carried int
		most           uint64 // bytes, when it is handed over; 0: it is not
	}{
		{1, 0, 256},
		{1448, 0, CarryAfter},
		{1448, mostCarried / 2, CarryAfter},
		{64 << 10, mostCarried / 2, CarryAfter},
		{1, mostCarried / 2, 0},
	} {
		w.do(func() {
			w.carried, w.mostCarried = c.carried, mostCarried
			w.kernel = func(netip.Addr) *repair.Kernel { return &repair.Kernel{After: CarryAfter} }
			defer func() { w.carried, w.kernel = 0, nil }()
			fl := &conn{r: w.Relay, record: new(flow.Flow)}
			fl.begin()
			var got uint64
			for range 10_000 {
				fl.record.In += uint64(c.piece)
				if fl.busy() {
					got = fl.record.In
					break
				}
			}
			if got > c.most || got == 0 && c.most > 0 {
				t.Errorf("pieces of %d bytes, %d connections carried: handed over after %d bytes, want %d at most", c.piece, c.carried, got, c.most)
			}
		})
	}
}

// TestCarriedSlowReader: a guest that takes what is left for it, however slowly, gets all of
// it; one that takes nothing is not waited for without end.
func TestCarriedSlowReader(t *testing.T) {
	w := newWorld(t)
	fd, other := loopbackPair(t)
	written := 0 // which differs: the kernel sizes the buffers by what it has seen
	for {
		n, err := unix.Write(fd, make([]byte, 64<<10))
		if err == unix.EAGAIN {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		written += n
	}
	w.do(func() {
		closed := false
		w.linger(fd, true, func() { closed = true })
		if len(w.lingering) != 1 {
			t.Fatalf("%d sockets linger, want 1", len(w.lingering))
		}
		var l *lingering
		for l = range w.lingering {
		}
		looks := func(progress bool) {
			t.Helper()
			l.waited = lookFor / 2
			l.Run()
			if (l.waited == 0) != progress {
				t.Errorf("waited %v, progress %v", l.waited, progress)
			}
		}
		looks(true)
		looks(false)
		if _, err := io.CopyN(io.Discard, other, int64(written/2)); err != nil {
			t.Error(err)
		}
		looks(true)
		l.waited = lookFor
		if l.Run(); !closed {
			t.Error("a guest that takes nothing is waited for without end")
		}
	})
}
