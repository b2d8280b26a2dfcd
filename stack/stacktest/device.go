package stacktest

import (
	"encoding/binary"
	"sync"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// VNetHdr is struct virtio_net_hdr of linux/virtio_net.h.
type VNetHdr struct {
	Flags, GSOType                         uint8
	HdrLen, GSOSize, CsumStart, CsumOffset uint16
}

// Bits and types of VNetHdr.
const (
	NeedsCsum = 1
	DataValid = 2
	GSOTCPv4  = 1
	GSOTCPv6  = 4
	GSOUDPL4  = 5
)

func (h VNetHdr) append(b []byte) []byte {
	b = append(b, h.Flags, h.GSOType)
	b = binary.LittleEndian.AppendUint16(b, h.HdrLen)
	b = binary.LittleEndian.AppendUint16(b, h.GSOSize)
	b = binary.LittleEndian.AppendUint16(b, h.CsumStart)
	return binary.LittleEndian.AppendUint16(b, h.CsumOffset)
}

func parseVNetHdr(b []byte) VNetHdr {
	return VNetHdr{
		Flags: b[0], GSOType: b[1],
		HdrLen:     binary.LittleEndian.Uint16(b[2:]),
		GSOSize:    binary.LittleEndian.Uint16(b[4:]),
		CsumStart:  binary.LittleEndian.Uint16(b[6:]),
		CsumOffset: binary.LittleEndian.Uint16(b[8:]),
	}
}

// Frame is one Ethernet frame that the stack wrote.
type Frame struct {
	VNet VNetHdr // zero on a device without the header
	Data []byte  // from the Ethernet header on
}

// queueLength bounds the frames that wait in a Device, as a TAP's queue does.
const queueLength = 4096

// DeviceConfig of a Device.
type DeviceConfig struct {
	// VNetHdr puts a virtio-net header before each frame.
	VNetHdr bool
	// Offload allows super-segments and partial checksums; it implies VNetHdr.
	Offload bool
	// USO allows super-datagrams; it implies Offload.
	USO bool
	// HardwareAddr of the guest's end; may be zero, as with a TAP that tells
	// none.
	HardwareAddr [6]byte
}

// Device implements stack.Device in memory. Any goroutine may use it.
type Device struct {
	cfg DeviceConfig
	fd  int // an eventfd that is readable while a frame waits

	mu    sync.Mutex
	queue [][]byte    // guarded by mu; frames towards the stack, with header
	sent  []Frame     // guarded by mu; frames from the stack
	sink  func(Frame) // guarded by mu; takes the frames instead of sent
	err   unix.Errno  // guarded by mu; what reads and writes say, if not zero
	reads int         // guarded by mu
}

// NewDevice makes a device, which is closed when the test ends.
func NewDevice(t testing.TB, cfg DeviceConfig) *Device {
	t.Helper()
	cfg.Offload = cfg.Offload || cfg.USO
	cfg.VNetHdr = cfg.VNetHdr || cfg.Offload
	fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		t.Fatalf("open eventfd: %v", err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return &Device{cfg: cfg, fd: fd}
}

// FD implements stack.Device.
func (d *Device) FD() int { return d.fd }

// VNetHdr implements stack.Device.
func (d *Device) VNetHdr() bool { return d.cfg.VNetHdr }

// Offload implements stack.Device.
func (d *Device) Offload() bool { return d.cfg.Offload }

// USO implements stack.Device.
func (d *Device) USO() bool { return d.cfg.USO }

// HardwareAddr implements stack.Device.
func (d *Device) HardwareAddr() [6]byte { return d.cfg.HardwareAddr }

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
	var b []byte
	for i := range iov {
		b = append(b, unsafe.Slice(iov[i].Base, iov[i].Len)...)
	}
	n := len(b)
	var f Frame
	if d.cfg.VNetHdr {
		if len(b) < header.VirtioNetHeaderSize {
			return -1, unix.EINVAL
		}
		f.VNet = parseVNetHdr(b)
		b = b[header.VirtioNetHeaderSize:]
	}
	f.Data = b
	d.mu.Lock()
	err, sink := d.err, d.sink
	if err == 0 && sink == nil {
		d.sent = append(d.sent, f)
	}
	d.mu.Unlock()
	switch {
	case err != 0:
		return -1, err
	case len(b) < 14: // as the kernel's tun_get_user
		return -1, unix.EINVAL
	case sink != nil:
		sink(f)
	}
	return n, 0
}

// Inject lets the stack read a frame, after a zero virtio-net header if the
// device has them. The frame is copied. It reports false if the queue is full
// and the frame lost.
func (d *Device) Inject(frame []byte) bool { return d.InjectVNet(VNetHdr{}, frame) }

// InjectVNet is Inject with a virtio-net header of the test's choice, which a
// device without headers ignores.
func (d *Device) InjectVNet(h VNetHdr, frame []byte) bool {
	var b []byte
	if d.cfg.VNetHdr {
		b = h.append(make([]byte, 0, header.VirtioNetHeaderSize+len(frame)))
	}
	return d.InjectRaw(append(b, frame...))
}

// InjectRaw lets the stack read these bytes, virtio-net header included. They
// must not change afterwards.
func (d *Device) InjectRaw(b []byte) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.queue) >= queueLength {
		return false
	}
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

// OnSend passes the frames that the stack writes to f, on the goroutine that
// writes them, instead of keeping them.
func (d *Device) OnSend(f func(Frame)) {
	d.mu.Lock()
	defer d.mu.Unlock()
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
