package steer

import (
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"epiphyte/internal/shard"
	"epiphyte/stack"
)

const (
	// inboxFrames is what a queue of the TAP holds (TUN_READQ_SIZE in
	// drivers/net/tun.c), twice: two of them may fill one inbox.
	inboxFrames = 1000
	// inboxBytes bounds super-segments of 64 kB, which a flow that changes queues
	// has a window full of: the largest of TCP's (stack/options.go).
	inboxBytes = 4 << 20
	// vnetHdrLen is the size of a virtio-net header.
	vnetHdrLen = 10
)

// Lane is the stack.Device of one lane: its queue, with what belongs to other
// lanes handed over to them, and what they have handed over to it.
//
// All but deliver belongs to the lane's shard.
type Lane struct {
	stack.Device
	group *Group
	index int
	vnet  bool

	shard   *shard.Shard
	handler shard.Handler
	taken   []*frame // out of the inbox; those before next are delivered
	next    int
	own     uint64  // frames of ours by our queue
	tell    []*Lane // owners of frames in this batch that are to be told

	filled atomic.Bool // there is something in the inbox; spares readers the lock

	mu      sync.Mutex
	waiting []*frame // the inbox; guarded by mu, and so are:
	bytes   int      // in it
	told    bool     // Run is due, or whoever read the frame is about to post it
	handed  uint64
	lost    uint64
}

// Stats count frames from the guest since the start.
type Stats struct {
	Own    uint64 // that came by the lane's own queue
	Handed uint64 // that came by another's
	Lost   uint64 // that came by another's and found the inbox full
}

// Attach says who reads the lane's frames, on which shard: what is called when
// its descriptor is readable. It must be called before any lane reads.
func (l *Lane) Attach(s *shard.Shard, h shard.Handler) { l.shard, l.handler = s, h }

// Stats must be called on the lane's shard.
func (l *Lane) Stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	return Stats{Own: l.own, Handed: l.handed, Lost: l.lost}
}

// Readv implements stack.Device. EINTR: the frame was another lane's. The first
// of iov holds the virtio-net header if there is one, the next the Ethernet
// header and nothing else.
func (l *Lane) Readv(iov []unix.Iovec) (int, unix.Errno) {
	if f := l.take(); f != nil {
		n := f.scatter(iov)
		l.group.spare(f)
		return n, 0
	}
	n, errno := l.Device.Readv(iov)
	if errno != 0 || n == 0 {
		return n, errno
	}
	owner := l.group.lanes[l.ownerOf(iov, n)]
	if owner == l {
		l.own++
		return n, 0
	}
	if owner.deliver(iov, n) {
		// When the batch is read: told of its first frame the owner would take that
		// alone, and send on alone what could go together.
		if l.tell = append(l.tell, owner); len(l.tell) == 1 {
			l.shard.Again((*teller)(l))
		}
	}
	return 0, unix.EINTR
}

func (l *Lane) ownerOf(iov []unix.Iovec, n int) int {
	if l.vnet {
		iov, n = iov[1:], n-vnetHdrLen
	}
	n -= ethernetLen
	if n <= 0 || len(iov) < 2 || iov[0].Len != ethernetLen {
		return 0
	}
	eth := bytesOf(&iov[0])
	ip := bytesOf(&iov[1])
	return l.group.owner(uint16(eth[12])<<8|uint16(eth[13]), ip[:min(n, len(ip))])
}

func bytesOf(v *unix.Iovec) []byte { return unsafe.Slice(v.Base, v.Len) }

// teller tells the owners of what a lane has read that something is in their
// inboxes.
type teller Lane

// Run implements shard.Task.
func (t *teller) Run() {
	for i, owner := range t.tell {
		t.tell[i] = nil
		owner.shard.Post(owner)
	}
	t.tell = t.tell[:0]
}

// deliver puts a frame into the inbox, and reports whether l is to be told. Any
// lane's shard may call it.
func (l *Lane) deliver(iov []unix.Iovec, n int) (tell bool) {
	f := l.group.gather(iov, n) // before the lock: 64 kB take some microseconds
	l.mu.Lock()
	if len(l.waiting) >= inboxFrames || l.bytes+n > inboxBytes {
		l.lost++
		l.mu.Unlock()
		l.group.spare(f)
		return false
	}
	l.waiting = append(l.waiting, f)
	l.bytes += n
	l.handed++
	l.filled.Store(true)
	tell = !l.told
	l.told = true
	l.mu.Unlock()
	return tell
}

// take is the oldest frame handed over, nil if there is none. As all that wait
// are taken at once, twice the bounds may be held.
func (l *Lane) take() *frame {
	if l.next == len(l.taken) {
		if !l.filled.Load() {
			return nil
		}
		clear(l.taken)
		l.mu.Lock()
		l.waiting, l.taken, l.bytes = l.taken[:0], l.waiting, 0
		l.filled.Store(false)
		l.mu.Unlock()
		l.next = 0
	}
	f := l.taken[l.next]
	l.next++
	return f
}

// Run implements shard.Task: it has the inbox read, a batch each turn.
func (l *Lane) Run() {
	l.handler.Ready(unix.EPOLLIN)
	l.mu.Lock()
	l.told = len(l.waiting) > 0 || l.next < len(l.taken)
	more := l.told
	l.mu.Unlock()
	if more {
		l.shard.Again(l)
	}
}
