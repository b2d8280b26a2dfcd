package stack

import (
	"encoding/binary"
	"errors"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// ErrDeviceGone is returned when the frame device has vanished, as a TAP does
// when it is deleted inside the guest.
var ErrDeviceGone = errors.New("TAP device is gone")

// DeviceGone reports whether a read's error means that the device has vanished. EIO,
// say, is another: a TAP that is down may come up again.
func DeviceGone(errno unix.Errno) bool {
	return errno == unix.EBADFD || errno == unix.ENODEV || errno == unix.EBADF || errno == unix.ENXIO
}

// Device is one queue of frames to and from the guest: a TAP, or anything that
// carries one Ethernet frame per read and per write.
type Device interface {
	// FD is a non-blocking descriptor that polls readable when a frame waits.
	FD() int
	// VNetHdr reports that each frame is preceded by a 10-byte virtio-net
	// header (struct virtio_net_hdr of linux/virtio_net.h, little-endian).
	VNetHdr() bool
	// Offload reports that frames may carry partial checksums and TCP
	// super-segments, both ways. It implies VNetHdr.
	Offload() bool
	// USO reports that frames may be UDP super-datagrams too, both ways. It
	// implies Offload.
	USO() bool
	// HardwareAddr is the Ethernet address at the guest's end, zero if unknown.
	HardwareAddr() [6]byte
	// Readv reads one frame. EAGAIN: none waits. EINTR: a frame of that size was read that
	// is not for the caller; another may wait. EBADFD: the device is gone.
	Readv(iov []unix.Iovec) (int, unix.Errno)
	// Writev writes one frame. Any number of goroutines may call it at once.
	Writev(iov []unix.Iovec) (int, unix.Errno)
}

// virtioHdr is struct virtio_net_hdr. Its fields are little-endian on the wire
// (the device is set so), which is the native order of every platform that the
// raw reads and writes below are built for.
type virtioHdr struct {
	flags, gsoType                         uint8
	hdrLen, gsoSize, csumStart, csumOffset uint16
}

func (h *virtioHdr) vec() unix.Iovec {
	return unix.Iovec{Base: &h.flags, Len: header.VirtioNetHeaderSize}
}

// PartialChecksum returns the offset in a frame, from the Ethernet header on, at which its
// virtio-net header leaves a checksum to be filled in; ok is false if it leaves none.
func PartialChecksum(virtio []byte) (at int, ok bool) {
	if virtio[0]&virtioNeedsCsum == 0 {
		return 0, false
	}
	return int(binary.LittleEndian.Uint16(virtio[6:])) + int(binary.LittleEndian.Uint16(virtio[8:])), true
}

// Values of virtioHdr, from linux/virtio_net.h.
const (
	virtioNeedsCsum = 1
	virtioDataValid = 2

	virtioGSOTCPv4 = 1
	virtioGSOTCPv6 = 4
	virtioGSOUDPL4 = 5
	virtioGSOECN   = 0x80
)
