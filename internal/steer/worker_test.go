package steer

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"epiphyte/internal/addressing/addressingtest"
	"epiphyte/internal/shard"
	"epiphyte/internal/shard/shardtest"
	"epiphyte/internal/testnet"
	"epiphyte/stack"
)

// queue is a queue of a device whose frames are given to it.
type queue struct {
	stack.Device // none of its other methods is called
	vnet         bool
	frames       [][]byte
}

func (q *queue) VNetHdr() bool { return q.vnet }

func (q *queue) Readv(iov []unix.Iovec) (int, unix.Errno) {
	if len(q.frames) == 0 {
		return 0, unix.EAGAIN
	}
	f := frame{data: q.frames[0], size: len(q.frames[0])}
	q.frames = q.frames[1:]
	return f.scatter(iov), 0
}

// reader is what the stack is to a worker: it reads batches, the way the stack
// lays them out.
type reader struct {
	worker *Worker
	shard  *shard.Shard
	vnet   bool
	limit  int // frames of a batch
	got    [][]byte
	iov    []unix.Iovec
	parts  [4][]byte
}

func newReader(l *Worker, s *shard.Shard, vnet bool) *reader {
	r := &reader{worker: l, shard: s, vnet: vnet, limit: 32}
	for i, size := range []int{header.VirtioNetHeaderSize, header.EthernetMinimumSize, 2048, 65536} {
		r.parts[i] = make([]byte, size)
		if i == 0 && !vnet {
			continue
		}
		v := unix.Iovec{Base: &r.parts[i][0]}
		v.SetLen(size)
		r.iov = append(r.iov, v)
	}
	l.Attach(s, r)
	return r
}

func (r *reader) Ready(uint32) {
	for range r.limit {
		n, errno := r.worker.Readv(r.iov)
		if errno == unix.EAGAIN {
			return
		}
		if errno == 0 {
			r.got = append(r.got, testnet.Gather(r.iov, n))
		}
	}
}

type workers struct {
	group   *Group
	queues  []*queue
	readers []*reader
	pollers []*shardtest.Poller
}

func newWorkers(t testing.TB, count int, vnet bool) *workers {
	t.Helper()
	w := new(workers)
	cfg := Config{Plan: addressingtest.New(t)}
	for range count {
		q := &queue{vnet: vnet}
		w.queues = append(w.queues, q)
		cfg.Queues = append(cfg.Queues, q)
	}
	w.group = New(cfg)
	for i := range count {
		p := new(shardtest.Poller)
		s, err := shard.New(shard.Config{Clock: new(shardtest.Clock), Poller: p})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		w.pollers = append(w.pollers, p)
		w.readers = append(w.readers, newReader(w.group.Worker(i), s, vnet))
	}
	return w
}

// turn runs one turn of a worker's shard, which reads its queue if there is
// anything.
func (w *workers) turn(t testing.TB, i int) {
	t.Helper()
	if len(w.queues[i].frames) > 0 {
		w.readers[i].Ready(unix.EPOLLIN)
	}
	if err := w.readers[i].shard.Turn(0); err != nil {
		t.Fatal(err)
	}
}

// datagrams gives frames of one flow, numbered, with a virtio-net header if there
// is to be one, and their owner.
func (w *workers) datagrams(owner, count, size int) (list [][]byte) {
	for port := uint16(40000); ; port++ {
		from := netip.AddrPortFrom(netip.MustParseAddr("10.0.2.100"), port)
		if w.group.ownerOf(testnet.UDP(from, at("192.0.2.7:9"), 64, nil)) != owner {
			continue
		}
		for i := range count {
			payload := binary.BigEndian.AppendUint32(make([]byte, 0, max(4, size)), uint32(i))
			f := testnet.UDP(from, at("192.0.2.7:9"), 64, payload[:max(4, size)])
			if w.queues[0].vnet {
				f = append(bytes.Repeat([]byte{byte(i)}, header.VirtioNetHeaderSize), f...)
			}
			list = append(list, f)
		}
		return list
	}
}

func equal(a, b [][]byte) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !bytes.Equal(a[i], b[i]) {
			return false
		}
	}
	return true
}

// Frames arrive as they were, in order, at their owner and nowhere else, whichever
// queue they come by.
func TestFramesReachTheirOwner(t *testing.T) {
	for _, vnet := range []bool{false, true} {
		for _, size := range []int{4, 1400, 2048, 60000} {
			t.Run(fmt.Sprint(vnet, size), func(t *testing.T) {
				w := newWorkers(t, 3, vnet)
				for owner := range 3 {
					for by := range 3 {
						want := w.datagrams(owner, 5, size)
						w.queues[by].frames = want
						for i := range w.readers {
							w.readers[i].got = nil
						}
						w.turn(t, by)
						for i := range w.readers {
							w.turn(t, i)
							w.turn(t, i)
						}
						for i, r := range w.readers {
							if i == owner && !equal(r.got, want) {
								t.Errorf("by %d for %d: %d frames, want %d, or other ones", by, owner, len(r.got), len(want))
							}
							if i != owner && len(r.got) > 0 {
								t.Errorf("by %d for %d: %d frames at %d", by, owner, len(r.got), i)
							}
						}
					}
				}
				for i := range w.readers {
					if s := w.group.Worker(i).Stats(); s != (Stats{Own: 5, Handed: 10}) {
						t.Errorf("worker %d: %+v", i, s)
					}
				}
			})
		}
	}
}

// What was handed over is older than what waits in the queue: a flow that changes
// queues stays in order.
func TestInboxComesBeforeTheQueue(t *testing.T) {
	w := newWorkers(t, 2, false)
	want := w.datagrams(1, 10, 4)
	w.queues[0].frames = want[:6]
	w.turn(t, 0)
	w.queues[1].frames = want[6:]
	w.turn(t, 1)
	if got := w.readers[1].got; !equal(got, want) {
		t.Errorf("%d frames, or in another order", len(got))
	}
}

// One wake-up for all that comes before the owner gets to it, none at rest, and a
// batch each turn.
func TestOwnerIsToldOnce(t *testing.T) {
	w := newWorkers(t, 2, false)
	r := w.readers[1]
	r.limit = 8
	w.readers[0].limit = 20
	want := w.datagrams(1, 20, 4)
	for range 3 {
		r.got = nil
		w.queues[0].frames = want
		w.turn(t, 0)
		for turn := range 3 {
			if err := r.shard.Turn(0); err != nil {
				t.Fatal(err)
			}
			if least := min(20, 8*(turn+1)) - 1; len(r.got) < least {
				t.Fatalf("turn %d: %d frames, want %d", turn, len(r.got), least)
			}
		}
		if !equal(r.got, want) {
			t.Fatalf("%d frames, want %d", len(r.got), len(want))
		}
		w.pollers[1].Waits() // of the above
		if err := r.shard.Turn(-1); err != nil {
			t.Fatal(err)
		}
		if waits := w.pollers[1].Waits(); len(waits) != 1 || waits[0] >= 0 {
			t.Errorf("at rest the shard waits %v", waits)
		}
	}
}

// An owner that does not read holds a bounded number of frames and of bytes; the
// rest is lost and counted, and what is held arrives.
func TestInboxIsBounded(t *testing.T) {
	for _, tc := range []struct{ size, held int }{{4, inboxFrames}, {60000, inboxBytes / (60000 + 42)}} {
		w := newWorkers(t, 2, false)
		const sent = 2 * inboxFrames
		want := w.datagrams(1, sent, tc.size)
		w.queues[0].frames = want
		w.readers[0].limit = sent
		w.turn(t, 0)
		if s := w.group.Worker(1).Stats(); s.Handed != uint64(tc.held) || s.Lost != uint64(sent-tc.held) {
			t.Errorf("of %d frames of %d bytes: %+v, want %d held", sent, tc.size, s, tc.held)
		}
		w.readers[1].limit = sent
		w.turn(t, 1)
		w.turn(t, 1)
		if got := w.readers[1].got; !equal(got, want[:tc.held]) {
			t.Errorf("%d frames arrived, want the first %d", len(got), tc.held)
		}
	}
}

// Handing over takes memory only at first.
func TestHandingOverAllocatesNothing(t *testing.T) {
	w := newWorkers(t, 2, false)
	frames := w.datagrams(1, 16, 1000)
	w.readers[1].limit = 17
	round := func() {
		w.queues[0].frames = frames
		for range frames {
			w.group.Worker(0).Readv(w.readers[0].iov)
		}
		for range frames {
			if f := w.group.Worker(1).take(); f != nil {
				w.group.spare(f)
			}
		}
	}
	round()
	// New ones would be two for each frame. Pools lose some: to the collector, and
	// at random under the race detector.
	if n := testing.AllocsPerRun(100, round); n > float64(len(frames)) {
		t.Errorf("%v allocations for %d frames", n, len(frames))
	}
}

func BenchmarkOwner(b *testing.B) {
	g := testGroup(b, 4, false)
	frame := testnet.TCP(at("10.0.2.100:40000"), at("192.0.2.7:80"), 0x10, 1, 1, nil)
	for b.Loop() {
		g.ownerOf(frame)
	}
}

func BenchmarkHandOver(b *testing.B) {
	for _, size := range []int{40, 1400, 60000} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			w := newWorkers(b, 2, false)
			f := w.datagrams(1, 1, size)[0]
			r := w.readers[0]
			(&frame{data: f, size: len(f)}).scatter(r.iov)
			for b.Loop() {
				w.group.Worker(1).deliver(r.iov, len(f))
				got := w.group.Worker(1).take()
				got.scatter(w.readers[1].iov)
				w.group.spare(got)
			}
		})
	}
}
