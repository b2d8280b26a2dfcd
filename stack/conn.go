package stack

import (
	"container/list"
	"io"
	"net/netip"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"

	"epiphyte/internal/sockio"
)

// Readiness of a Conn.
type Readiness uint32

// States that a Conn may reach. Gone comes last and once: gVisor has released the
// connection, however it ended.
const (
	Readable Readiness = 1 << iota
	Writable
	Gone
)

// Conn is one TCP connection of the guest, as seen from outside: what the
// guest sends is read, what is written the guest receives. Its methods belong
// to the shard's thread and never block; errors are errnos, EAGAIN when the
// guest has to move first.
type Conn struct {
	s      *Stack
	ep     *tcp.Endpoint
	wq     waiter.Queue
	entry  waiter.Entry
	notify func(Readiness)
	place  *list.Element // among the orphans
	acks   acks
	ready  atomic.Uint32 // Readiness to be passed on

	buffers  int // bytes each way
	reserved int // of these, both ways, taken off the budget
	overhead overhead

	locked     bool // held by the batch being read
	closed     bool
	registered bool // entry is in wq
	claimed    bool // in Stack.claims
	tellAcks   bool
	frozen     bool // see Freeze

	strayed func() // see Leave; nil: it has not left
}

const allEvents = waiter.ReadableEvents | waiter.WritableEvents | waiter.EventHUp | waiter.EventErr

// NotifyEvent implements waiter.EventListener. gVisor calls it on any goroutine. All
// events until the shard gets to them take one Post.
func (c *Conn) NotifyEvent(mask waiter.EventMask) {
	var r Readiness
	if mask&waiter.ReadableEvents != 0 {
		r |= Readable
	}
	if mask&waiter.WritableEvents != 0 {
		r |= Writable
	}
	if mask&(waiter.EventHUp|waiter.EventErr) != 0 {
		r |= Readable | Writable | Gone
	}
	if c.ready.Or(uint32(r)) == 0 {
		c.s.shard.Post(c)
	}
}

// register starts to listen to gVisor's events.
func (c *Conn) register() {
	c.entry.Init(c, allEvents)
	c.wq.EventRegister(&c.entry)
	c.registered = true
}

func (c *Conn) unregister() {
	if c.registered {
		c.registered = false
		c.wq.EventUnregister(&c.entry)
	}
}

// Run implements shard.Task: it passes on what NotifyEvent gathered.
func (c *Conn) Run() {
	r := Readiness(c.ready.Swap(0))
	if r&Gone != 0 {
		switch c.ep.EndpointState() {
		case tcp.StateClose, tcp.StateError:
			c.s.forget(c)
		default: // TIME-WAIT, or the guest's FIN
			r &^= Gone
		}
	}
	if c.notify != nil && r != 0 {
		c.notify(r)
	}
}

// RemoteAddr is the guest's address and port.
func (c *Conn) RemoteAddr() netip.AddrPort {
	return netip.AddrPortFrom(addrFrom(c.ep.ID.RemoteAddress), c.ep.ID.RemotePort)
}

// LocalAddr is the address and port outside, as the guest knows it.
func (c *Conn) LocalAddr() netip.AddrPort {
	return netip.AddrPortFrom(addrFrom(c.ep.ID.LocalAddress), c.ep.ID.LocalPort)
}

// SetNotify sets the function that is told, on the shard's thread, what the
// connection has become.
func (c *Conn) SetNotify(notify func(Readiness)) { c.notify = notify }

// Failed reports whether the connection ended by a reset or a timeout. A reset
// after the guest's own FIN does not count: gVisor calls that an ordinary end.
func (c *Conn) Failed() bool { return c.ep.EndpointState() == tcp.StateError }

// Peek points iov at bytes that the guest has sent, without taking them, and
// returns how many elements and bytes that is. No bytes and no errno: the
// guest has closed its side.
func (c *Conn) Peek(iov []unix.Iovec) (elements, size int, errno unix.Errno) {
	v := &c.s.peek
	*v = vectors{iov: iov}
	_, err := c.ep.Read(v, tcpip.ReadOptions{Peek: true})
	if v.size > 0 {
		return v.n, v.size, 0
	}
	if _, ok := err.(*tcpip.ErrClosedForReceive); ok {
		return 0, 0, 0
	}
	return 0, 0, toErrno(err)
}

// Discard takes n of the bytes that Peek showed, and opens the window by as
// much as the receiver has earned.
func (c *Conn) Discard(n int) {
	d := discard(n)
	c.follow(false) // it may tell of a larger window
	c.ep.Read(&d, tcpip.ReadOptions{})
	c.unfollow()
	if c.buffers == maxShare {
		c.ep.ModerateRecvBuf(n)
	}
}

// MaxWrite is the largest size worth passing to WriteFrom: one more byte would
// leave as a segment of its own.
const MaxWrite = gsoMax - header.TCPTotalHeaderMaximumSize - 1

// WriteFrom reads at most n bytes of the descriptor straight into the send
// buffer and returns how many. The descriptor must have n bytes to read. A
// failure to read is EIO; EPIPE and ECONNRESET are the guest's doing.
func (c *Conn) WriteFrom(fd, n int) (int, unix.Errno) {
	c.limitSend()
	src := &c.s.source
	*src = fdSource{fd: fd, left: n}
	c.follow(false)
	written, err := c.ep.Write(src, tcpip.WriteOptions{})
	c.unfollow()
	if src.errno != 0 {
		return int(written), unix.EIO
	}
	if err != nil {
		return 0, toErrno(err)
	}
	c.overhead.wrote(int(written))
	return int(written), 0
}

// CloseWrite sends the guest a FIN after what was written.
func (c *Conn) CloseWrite() {
	c.follow(false)
	c.ep.Shutdown(tcpip.ShutdownWrite)
	c.unfollow()
}

// Abort resets the connection. Gone follows.
func (c *Conn) Abort() {
	if !c.closed {
		c.closed = true
		c.ep.Abort()
		c.dropAck()
		c.ep.Close()
	}
}

// Close ends both directions in the ordinary way; what was written still
// reaches the guest. Gone follows when the guest has acknowledged it all, or
// after the stack's patience.
func (c *Conn) Close() {
	if !c.closed {
		c.closed = true
		c.ep.Close()
		c.s.orphan(c)
	}
}

// SetKeepalive probes an idle guest after idle, then every interval; without
// an answer the connection is reset.
func (c *Conn) SetKeepalive(idle, interval time.Duration) {
	i, v := tcpip.KeepaliveIdleOption(idle), tcpip.KeepaliveIntervalOption(interval)
	c.ep.SetSockOpt(&i)
	c.ep.SetSockOpt(&v)
	c.ep.SocketOptions().SetKeepAlive(true)
}

// vectors gathers what Endpoint.Read shows it instead of copying it.
type vectors struct {
	iov     []unix.Iovec
	n, size int
}

func (v *vectors) Write(b []byte) (int, error) {
	if v.n == len(v.iov) {
		return 0, io.ErrShortWrite
	}
	if len(b) > 0 {
		v.iov[v.n] = sockio.Vec(b)
		v.n++
		v.size += len(b)
	}
	return len(b), nil
}

// discard swallows this many bytes and no more.
type discard int

func (d *discard) Write(b []byte) (int, error) {
	if len(b) > int(*d) {
		n := int(*d)
		*d = 0
		return n, io.ErrShortWrite
	}
	*d -= discard(len(b))
	return len(b), nil
}

// fdSource is a Payloader that reads a descriptor known to hold enough bytes.
type fdSource struct {
	fd, left int
	errno    unix.Errno
}

func (f *fdSource) Len() int { return f.left }

func (f *fdSource) Read(b []byte) (int, error) {
	if f.left == 0 {
		return 0, io.EOF
	}
	b = b[:min(len(b), f.left)]
	if len(b) == 0 { // gVisor's buffers ask so before they grow
		return 0, nil
	}
	for {
		n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(f.fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
		switch {
		case errno == unix.EINTR:
			continue
		case errno != 0:
			f.errno = errno
			return 0, errno
		case n == 0:
			f.errno = unix.EIO
			return 0, io.ErrUnexpectedEOF
		}
		f.left -= int(n)
		return int(n), nil
	}
}
