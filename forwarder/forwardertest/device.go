package forwardertest

import (
	"fmt"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"epiphyte/stack"
)

// queueBytes is asked for as the room of each direction. A TAP's queue holds
// 500 frames (tx_queue_len); so many of 64 kB do not fit under wmem_max, but a
// window of TCP does.
const queueBytes = 4 << 20

// virtioHdrLen is the length of struct virtio_net_hdr.
const virtioHdrLen = 10

// Device is a stack.Device over one end of a socket pair.
type Device struct {
	fd      int
	offload bool
	once    sync.Once
}

var _ stack.Device = (*Device)(nil)

// Port is the guest's end of a Device.
type Port struct {
	fd   int
	vnet bool
	once sync.Once
	buf  []byte
}

// Pipe makes a Device and its Port. With offload, frames have a virtio-net
// header and may be super-segments with partial checksums.
func Pipe(offload bool) (*Device, *Port, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make socket pair: %w", err)
	}
	for _, fd := range fds {
		// Beyond wmem_max where privileges allow, up to it where they do not.
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, queueBytes) != nil {
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, queueBytes)
		}
	}
	return &Device{fd: fds[0], offload: offload}, &Port{fd: fds[1], vnet: offload}, nil
}

// FD implements stack.Device.
func (d *Device) FD() int { return d.fd }

// VNetHdr implements stack.Device.
func (d *Device) VNetHdr() bool { return d.offload }

// Offload implements stack.Device.
func (d *Device) Offload() bool { return d.offload }

// USO implements stack.Device.
func (d *Device) USO() bool { return false }

// HardwareAddr implements stack.Device: it is the guest's.
func (d *Device) HardwareAddr() [6]byte { return GuestMAC() }

// Readv implements stack.Device. The device is gone once the Port is closed.
func (d *Device) Readv(iov []unix.Iovec) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall(unix.SYS_READV, uintptr(d.fd), uintptr(unsafe.Pointer(&iov[0])), uintptr(len(iov)))
	if errno == 0 && n == 0 || errno == unix.ECONNRESET {
		return 0, unix.EBADFD
	}
	return int(n), errno
}

// Writev implements stack.Device.
func (d *Device) Writev(iov []unix.Iovec) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall(unix.SYS_WRITEV, uintptr(d.fd), uintptr(unsafe.Pointer(&iov[0])), uintptr(len(iov)))
	return int(n), errno
}

// Close closes the device's end.
func (d *Device) Close() error {
	var err error
	d.once.Do(func() { err = unix.Close(d.fd) })
	return err
}

// Write sends frames to the device. It waits for room, as a guest's sender is
// not told of lost frames either but tests of bursts mean each of them to
// arrive.
func (p *Port) Write(frames ...[]byte) error {
	for _, f := range frames {
		if err := p.WriteSegments(0, f); err != nil {
			return err
		}
	}
	return nil
}

// WriteSegments sends one frame which, with offload and a size other than
// zero, is a UDP super-datagram to be cut into payloads of that many bytes
// (VIRTIO_NET_HDR_GSO_UDP_L4), its checksum vouched for.
func (p *Port) WriteSegments(size uint16, frame []byte) error {
	if p.vnet {
		hdr := make([]byte, virtioHdrLen, virtioHdrLen+len(frame))
		if size > 0 {
			hdr[0], hdr[1] = 1, 5 // NEEDS_CSUM, GSO_UDP_L4
			hdr[4], hdr[5] = byte(size), byte(size>>8)
			hdr[6], hdr[8] = header.EthernetMinimumSize+header.IPv4MinimumSize, 6
			if frame[header.EthernetMinimumSize]>>4 == 6 {
				hdr[6] = header.EthernetMinimumSize + header.IPv6MinimumSize
			}
		}
		frame = append(hdr, frame...)
	}
	for {
		_, err := unix.Write(p.fd, frame)
		if err != unix.EAGAIN {
			return err
		}
		if err := p.poll(unix.POLLOUT, time.Now().Add(5*time.Second)); err != nil {
			return err
		}
	}
}

// Read returns the next frame for the guest, without its virtio-net header,
// waiting until the deadline; the zero deadline does not wait. The frame is
// the caller's.
func (p *Port) Read(deadline time.Time) ([]byte, error) {
	if p.buf == nil {
		p.buf = make([]byte, 1<<17)
	}
	for {
		n, err := unix.Read(p.fd, p.buf)
		switch {
		case err == nil && n == 0:
			return nil, unix.EBADFD
		case err == nil:
			frame := append([]byte(nil), p.buf[:n]...)
			if p.vnet {
				frame = completeChecksum(frame)
			}
			return frame, nil
		case err == unix.EINTR:
		case err != unix.EAGAIN || deadline.IsZero():
			return nil, err
		default:
			if err := p.poll(unix.POLLIN, deadline); err != nil {
				return nil, err
			}
		}
	}
}

func (p *Port) poll(events int16, deadline time.Time) error {
	fds := []unix.PollFd{{Fd: int32(p.fd), Events: events}}
	for {
		left := time.Until(deadline)
		if left <= 0 {
			return unix.ETIMEDOUT
		}
		n, err := unix.Poll(fds, int(left/time.Millisecond)+1)
		if err != nil && err != unix.EINTR {
			return err
		}
		if n > 0 {
			return nil
		}
	}
}

// Close closes the guest's end; the device is gone then.
func (p *Port) Close() error {
	var err error
	p.once.Do(func() { err = unix.Close(p.fd) })
	return err
}
