package steer

import (
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"epiphyte/internal/shard"
	"epiphyte/internal/sockio"
	"epiphyte/stack"
)

const (
	// inboxFrames is what a queue of the TAP holds (TUN_READQ_SIZE in
	// drivers/net/tun.c), twice: two of them may fill one inbox.
	inboxFrames = 1000
	// inboxBytes bounds super-segments of 64 kB. A flow that changes queues has at most a
	// window of them under way: TCP's largest (stack/options.go).
	inboxBytes = 4 << 20
)

// Worker is a queue as the stack on it sees it: without the frames that belong to
// other workers, and with those that they have handed over. All methods but deliver
// belong to the worker's shard.
type Worker struct {
	stack.Device
	group *Group
	vnet  bool

	shard   *shard.Shard
	handler shard.Handler
	taken   []*frame // out of the inbox; those before next are delivered
	next    int
	own     uint64    // our frames that came by our queue
	tell    []*Worker // owners of frames in this batch, to be told

	filled atomic.Bool // the inbox is not empty; spares readers the lock

	mu      sync.Mutex
	waiting []*frame // the inbox; guarded by mu, and so are:
	bytes   int      // in it
	told    bool     // Run is due, or the reader of the frame is about to post it
	handed  uint64
	lost    uint64
}

// Stats count frames from the guest since the start.
type Stats struct {
	Own    uint64 // that came by the worker's own queue
	Handed uint64 // that came by another's
	Lost   uint64 // that came by another's and found the inbox full
}

// Attach sets the handler that reads the worker's frames, and its shard: the one called
// when the descriptor is readable. It must be called before any worker reads.
func (w *Worker) Attach(s *shard.Shard, h shard.Handler) { w.shard, w.handler = s, h }

// Stats must be called on the worker's shard.
func (w *Worker) Stats() Stats {
	w.mu.Lock()
	defer w.mu.Unlock()
	return Stats{Own: w.own, Handed: w.handed, Lost: w.lost}
}

// Readv implements stack.Device. EINTR: the frame was another worker's. The first
// of iov holds the virtio-net header if there is one, the next the Ethernet
// header and nothing else, and two the packet.
func (w *Worker) Readv(iov []unix.Iovec) (int, unix.Errno) {
	if f := w.take(); f != nil {
		n := f.scatter(iov)
		w.group.spare(f)
		return n, 0
	}
	n, errno := w.Device.Readv(iov)
	if errno != 0 || n == 0 {
		return n, errno
	}
	owner := w.group.workers[w.ownerOf(iov, n)]
	if owner == w {
		w.own++
		return n, 0
	}
	if owner.deliver(iov, n) {
		// The owner is told when the batch has been read: told at once, it would take the
		// first frame alone, and send alone what could go together.
		if w.tell = append(w.tell, owner); len(w.tell) == 1 {
			w.shard.Again((*teller)(w))
		}
	}
	return 0, unix.EINTR
}

// ownerOf is the owner of a frame of n bytes, which is laid out as Readv says.
func (w *Worker) ownerOf(iov []unix.Iovec, n int) int {
	if w.vnet {
		iov, n = iov[1:], n-header.VirtioNetHeaderSize
	}
	n -= header.EthernetMinimumSize
	if n <= 0 {
		return 0
	}
	eth, head, tail := header.Ethernet(sockio.Bytes(&iov[0])), sockio.Bytes(&iov[1]), sockio.Bytes(&iov[2])
	return w.group.owner(eth.Type(), head[:min(n, len(head))], tail[:max(0, n-len(head))])
}

// teller tells the owners of frames that a worker has read.
type teller Worker

// Run implements shard.Task.
func (t *teller) Run() {
	for i, owner := range t.tell {
		t.tell[i] = nil
		owner.shard.Post(owner)
	}
	t.tell = t.tell[:0]
}

// deliver puts a frame into the inbox, and reports whether w is to be told. Any
// worker's shard may call it.
func (w *Worker) deliver(iov []unix.Iovec, n int) (tell bool) {
	f := w.group.gather(iov, n) // before the lock: 64 kB take some microseconds
	w.mu.Lock()
	if len(w.waiting) >= inboxFrames || w.bytes+n > inboxBytes {
		w.lost++
		w.mu.Unlock()
		w.group.spare(f)
		return false
	}
	w.waiting = append(w.waiting, f)
	w.bytes += n
	w.handed++
	w.filled.Store(true)
	tell = !w.told
	w.told = true
	w.mu.Unlock()
	return tell
}

// take returns the oldest frame handed over, nil if there is none. All waiting frames
// are taken at once, so up to twice the bounds may be held.
func (w *Worker) take() *frame {
	if w.next == len(w.taken) {
		if !w.filled.Load() {
			return nil
		}
		clear(w.taken)
		w.mu.Lock()
		w.waiting, w.taken, w.bytes = w.taken[:0], w.waiting, 0
		w.filled.Store(false)
		w.mu.Unlock()
		w.next = 0
	}
	f := w.taken[w.next]
	w.next++
	return f
}

// Run implements shard.Task: it has the inbox read, a batch each turn.
func (w *Worker) Run() {
	w.handler.Ready(unix.EPOLLIN)
	w.mu.Lock()
	w.told = len(w.waiting) > 0 || w.next < len(w.taken)
	more := w.told
	w.mu.Unlock()
	if more {
		w.shard.Again(w)
	}
}
