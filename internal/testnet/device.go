package testnet

import (
	"encoding/binary"
	"epiphyte/internal/sockio"
	"sync"
	"sync/atomic"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Bounds of the frames that wait for the stack: as a TAP, a device loses frames
// when its queue is full. A TAP's is shorter, but holds its senders up.
const (
	queueLength = 4096
	queueBytes  = 8 << 20
)

// DeviceConfig of a Device. The zero value is a device of bare frames.
type DeviceConfig struct {
	// VNetHdr puts a virtio-net header before each frame.
	VNetHdr bool
	// Offload allows super-segments and partial checksums; it implies VNetHdr.
	Offload bool
	// USO allows super-datagrams; it implies Offload.
	USO bool
	// MAC is the guest's Ethernet address; GuestMAC if zero.
	MAC [6]byte
	// Impairment of both directions.
	Impairment Impairment
}

// Device implements stack.Device in memory. Any goroutine may use it.
type Device struct {
	cfg     DeviceConfig
	fd      int // an eventfd that is readable while a frame waits
	in, out *direction
	arrived chan struct{} // holds a token if frames were sent since it was taken

	discard atomic.Bool

	mu    sync.Mutex
	queue [][]byte   // guarded by mu; frames towards the stack, with header
	bytes int        // guarded by mu; of queue
	sent  []Frame    // guarded by mu; frames from the stack
	err   unix.Errno // guarded by mu; what reads and writes say, if not zero
	reads int        // guarded by mu

	sinkMu sync.RWMutex // held for reading while the sink runs
	sink   func(Frame)  // guarded by sinkMu; takes the frames instead of sent
}

// NewDevice makes a device, which is closed when the test ends.
func NewDevice(t testing.TB, cfg DeviceConfig) *Device {
	t.Helper()
	cfg.Offload = cfg.Offload || cfg.USO
	cfg.VNetHdr = cfg.VNetHdr || cfg.Offload
	if cfg.MAC == ([6]byte{}) {
		cfg.MAC = GuestMAC()
	}
	fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		t.Fatalf("open eventfd: %v", err)
	}
	d := &Device{cfg: cfg, fd: fd, arrived: make(chan struct{}, 1)}
	if cfg.Impairment != (Impairment{}) {
		d.in = newDirection(cfg.Impairment, 1, func(f Frame) { d.InjectRaw(d.raw(f)) })
		d.out = newDirection(cfg.Impairment, 2, d.deliver)
	}
	t.Cleanup(d.close)
	return d
}

func (d *Device) close() {
	if d.in != nil {
		d.in.close()
		d.out.close()
	}
	unix.Close(d.fd)
}

// Port is the guest's end.
func (d *Device) Port() *Port { return &Port{d} }

// FD implements stack.Device.
func (d *Device) FD() int { return d.fd }

// VNetHdr implements stack.Device.
func (d *Device) VNetHdr() bool { return d.cfg.VNetHdr }

// Offload implements stack.Device.
func (d *Device) Offload() bool { return d.cfg.Offload }

// USO implements stack.Device.
func (d *Device) USO() bool { return d.cfg.USO }

// HardwareAddr implements stack.Device: it is the guest's.
func (d *Device) HardwareAddr() [6]byte { return d.cfg.MAC }

// Readv implements stack.Device.
func (d *Device) Readv(iov []unix.Iovec) (int, unix.Errno) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.reads++
	if d.err != 0 {
		return -1, d.err
	}
	if len(d.queue) == 0 {
		return -1, unix.EAGAIN
	}
	frame := d.queue[0]
	d.queue = d.queue[1:]
	d.bytes -= len(frame)
	if len(d.queue) == 0 {
		d.queue = nil
		var b [8]byte
		unix.Read(d.fd, b[:])
	}
	n := 0
	for i := range iov {
		n += copy(unsafe.Slice(iov[i].Base, iov[i].Len), frame[n:])
	}
	return n, 0
}

// Writev implements stack.Device.
func (d *Device) Writev(iov []unix.Iovec) (int, unix.Errno) {
	d.mu.Lock()
	err := d.err
	d.mu.Unlock()
	if err != 0 {
		return -1, err
	}
	if d.discard.Load() {
		return size(iov), 0
	}
	var b []byte
	for i := range iov {
		b = append(b, unsafe.Slice(iov[i].Base, iov[i].Len)...)
	}
	f := Frame{Data: b}
	if d.cfg.VNetHdr {
		if len(b) < vnetHdrLen {
			return -1, unix.EINVAL
		}
		f = Frame{VNet: parseVNetHdr(b), Data: b[vnetHdrLen:]}
	}
	if len(f.Data) < ethLen { // as the kernel's tun_get_user
		return -1, unix.EINVAL
	}
	if d.out != nil {
		d.out.pass(f)
	} else {
		d.deliver(f)
	}
	return len(b), 0
}

func size(iov []unix.Iovec) (n int) {
	for i := range iov {
		n += int(iov[i].Len)
	}
	return n
}

func (d *Device) deliver(f Frame) {
	d.sinkMu.RLock()
	defer d.sinkMu.RUnlock()
	if d.sink != nil {
		d.sink(f)
		return
	}
	d.mu.Lock()
	d.sent = append(d.sent, f)
	d.mu.Unlock()
	select {
	case d.arrived <- struct{}{}:
	default:
	}
}

// Inject lets the stack read a frame, after a zero virtio-net header if the
// device has them. The frame is copied. It reports false if the queue is full
// and the frame lost.
func (d *Device) Inject(frame []byte) bool { return d.InjectVNet(VNetHdr{}, frame) }

// InjectVNet is Inject with a virtio-net header of the test's choice, which a
// device without headers ignores.
func (d *Device) InjectVNet(h VNetHdr, frame []byte) bool {
	f := Frame{VNet: h, Data: append([]byte(nil), frame...)}
	if d.in != nil {
		d.in.pass(f)
		return true
	}
	return d.InjectRaw(d.raw(f))
}

func (d *Device) raw(f Frame) []byte {
	if !d.cfg.VNetHdr {
		return f.Data
	}
	return append(f.VNet.append(make([]byte, 0, vnetHdrLen+len(f.Data))), f.Data...)
}

// InjectRaw lets the stack read these bytes, virtio-net header included. They
// must not change afterwards.
func (d *Device) InjectRaw(b []byte) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.queue) >= queueLength || d.bytes+len(b) > queueBytes {
		return false
	}
	d.bytes += len(b)
	d.queue = append(d.queue, b)
	if len(d.queue) == 1 {
		d.wake()
	}
	return true
}

func (d *Device) wake() {
	var b [8]byte
	binary.NativeEndian.PutUint64(b[:], 1)
	unix.Write(d.fd, b[:])
}

// Waiting is the number of frames that the stack has not read yet.
func (d *Device) Waiting() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.queue)
}

// Reads is the number of calls of Readv so far.
func (d *Device) Reads() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.reads
}

// Sent returns and forgets the frames that the stack has written.
func (d *Device) Sent() []Frame {
	d.mu.Lock()
	defer d.mu.Unlock()
	sent := d.sent
	d.sent = nil
	return sent
}

// Discard drops what the stack writes from now on, and allocates nothing for it.
func (d *Device) Discard() { d.discard.Store(true) }

// OnSend passes the frames that the stack writes to f, on the goroutine that
// writes them, instead of keeping them; nil keeps them again. When it returns,
// the function before it does not run any more.
func (d *Device) OnSend(f func(Frame)) {
	d.sinkMu.Lock()
	defer d.sinkMu.Unlock()
	d.sink = f
}

// Fail makes reads and writes fail with errno, and the descriptor readable, as
// that of a TAP that was deleted; zero repairs it.
func (d *Device) Fail(errno unix.Errno) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.err = errno
	d.wake()
}

// Gather is a copy of the first n bytes of vectors, as of a frame that was read into them.
func Gather(iov []unix.Iovec, n int) []byte {
	var whole []byte
	for i := range iov {
		whole = append(whole, sockio.Bytes(&iov[i])...)
	}
	return whole[:n]
}
