package bridge

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"
	"sync/atomic"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"epiphyte/internal/addressing"
	"epiphyte/internal/shard"
	"epiphyte/internal/sockio"
	"epiphyte/stack"
)

// Config of a Bridge. Shard and Plan are required.
type Config struct {
	Shard *shard.Shard
	// Plan has the gateway's addresses, which no member may claim, and the subnets
	// that members' addresses are of. Without an IPv6 side no IPv6 passes.
	Plan addressing.Plan
	// Isolate lets members reach the gateway, and not each other.
	Isolate bool
	// USO says that the kernel takes UDP super-datagrams (Linux 6.2). It is the
	// Bridge's USO, which the stack asks for before there is a port, so Add refuses
	// devices without it.
	USO bool
	// Gone is called, on the shard's thread, with a port that was removed because its
	// device has vanished.
	Gone func(*Port)
	// Busy is called, on the shard's thread, with a connection that has become busy
	// (Port.Follow), and again whenever it has moved as much again.
	Busy func(*Conn)
	// Logger gets a warning, once for each member whose frames are dropped as spoofed.
	// The default is slog's.
	Logger *slog.Logger
}

// Bridge implements stack.Device over the ports of a network.
type Bridge struct {
	cfg     Config
	gateway [6]byte
	fd      int // an eventfd that is never readable: ports are watched instead
	handler shard.Handler
	table   atomic.Pointer[table]

	// The shard's thread only:
	current *Port // being read
	in      frame // read last
	conns   map[tuple]followed
}

var _ stack.Device = (*Bridge)(nil)

// New makes a bridge without ports. Close must be called in the end.
func New(cfg Config) (*Bridge, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("open bridge: make eventfd: %w", err)
	}
	b := &Bridge{cfg: cfg, gateway: cfg.Plan.MAC, fd: fd, conns: make(map[tuple]followed)}
	b.table.Store(new(table))
	return b, nil
}

// Attach sets the handler that reads the bridge, the stack's, which is called when a port
// is readable. It must be called before Add.
func (b *Bridge) Attach(h shard.Handler) { b.handler = h }

// Add makes a port of a device, which stays the caller's and must not be closed before
// Remove. No other port may have the addresses. Shard's thread, or before it serves.
func (b *Bridge) Add(dev stack.Device, a Address) (*Port, error) {
	p, err := b.add(dev, a)
	if err != nil {
		return nil, fmt.Errorf("add port of %v: %w", a.IPv4, err)
	}
	return p, nil
}

func (b *Bridge) add(dev stack.Device, a Address) (*Port, error) {
	switch {
	case b.handler == nil:
		return nil, errors.New("no stack reads the bridge")
	case !dev.VNetHdr() || !dev.Offload():
		return nil, errors.New("frames between members pass as they are, and the device lacks the virtio-net header or offloads")
	case b.cfg.USO && !dev.USO():
		return nil, errors.New("the device does not take UDP super-datagrams, and the network uses them")
	}
	if err := a.check(&b.cfg.Plan); err != nil {
		return nil, err
	}
	p := newPort(b, dev, a)
	t, err := b.table.Load().with(p)
	if err != nil {
		return nil, err
	}
	if p.watch, err = b.cfg.Shard.Watch(dev.FD(), unix.EPOLLIN, p); err != nil {
		return nil, err
	}
	b.table.Store(t)
	return p, nil
}

// Remove ends a port: when it returns, its device is not used any more. It does
// nothing to a port that is removed already. Shard's thread, or after it has served.
func (b *Bridge) Remove(p *Port) {
	if p.removed.Swap(true) {
		return
	}
	p.watch.Close()
	b.table.Store(b.table.Load().without(p))
	if b.current == p {
		b.current = nil
	}
	for _, known := range b.conns {
		if c := known.conn; c.ends[0].port == p || c.ends[1].port == p {
			c.end()
		}
	}
	for p.writers.Load() > 0 { // writers never block
		runtime.Gosched()
	}
}

// Lookup is the Ethernet address of the member that has a, for stack.Config.Neighbors.
// Any goroutine may call it.
func (b *Bridge) Lookup(a netip.Addr) ([6]byte, bool) {
	if p := b.table.Load().byAddr[a]; p != nil {
		return p.addr.MAC, true
	}
	return [6]byte{}, false
}

// Port is where the member that has a is; nil: there is none.
func (b *Bridge) Port(a netip.Addr) *Port { return b.table.Load().byAddr[a] }

// Close removes the ports. The shard must have stopped serving, and the stack been
// closed.
func (b *Bridge) Close() error {
	for _, p := range b.table.Load().ports {
		b.Remove(p)
	}
	if err := unix.Close(b.fd); err != nil {
		return fmt.Errorf("close bridge: %w", err)
	}
	return nil
}

// FD implements stack.Device. It never polls readable: Attach's handler is told
// instead.
func (b *Bridge) FD() int { return b.fd }

// VNetHdr implements stack.Device.
func (b *Bridge) VNetHdr() bool { return true }

// Offload implements stack.Device.
func (b *Bridge) Offload() bool { return true }

// USO implements stack.Device. It is the Config's.
func (b *Bridge) USO() bool { return b.cfg.USO }

// HardwareAddr implements stack.Device: members have one each.
func (b *Bridge) HardwareAddr() [6]byte { return [6]byte{} }

// Readv implements stack.Device: it reads one frame from the current port. EINTR: the
// frame was not for the stack. The first of iov holds the virtio-net header, the next
// the Ethernet header and nothing else, and two the packet.
func (b *Bridge) Readv(iov []unix.Iovec) (int, unix.Errno) {
	p := b.current
	if p == nil { // no port has frames, or it was removed within the batch
		return 0, unix.EAGAIN
	}
	n, errno := p.dev.Readv(iov)
	switch {
	case stack.DeviceGone(errno), errno == 0 && n == 0: // the latter from a socket
		b.Remove(p)
		if b.cfg.Gone != nil {
			b.cfg.Gone(p)
		}
		return 0, unix.EAGAIN
	case errno != 0:
		return n, errno
	}
	p.from.count(n)
	if b.in.load(iov, n) && b.forward(p, &b.in) {
		return n, 0
	}
	return n, unix.EINTR // counts in the stack's batch
}

// Writev implements stack.Device. The first of iov is the virtio-net header, the next
// begins with the Ethernet header. EHOSTUNREACH: no member has the destination. Frames to
// all are written to each port, even if some refuse them.
func (b *Bridge) Writev(iov []unix.Iovec) (int, unix.Errno) {
	t, n := b.table.Load(), 0
	dst := header.Ethernet(sockio.Bytes(&iov[1])).DestinationAddress()
	if mac := [6]byte([]byte(dst)); !toMany(mac) {
		p := t.byMAC[mac]
		if p == nil {
			return 0, unix.EHOSTUNREACH
		}
		return p.write(iov)
	}
	for _, p := range t.ports {
		n, _ = p.write(iov)
	}
	return n, 0
}

// toMany reports whether a is a broadcast or multicast address (IEEE 802, section
// 8.2.2: the group bit).
func toMany(a [6]byte) bool { return a[0]&1 != 0 }
