package pcap

import (
	"encoding/binary"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Bounds of a buffer. At 10 Gbit/s the bytes last 7 ms, in which the capture's goroutine must
// get its turn.
const (
	bufferBytes  = 8 << 20
	bufferFrames = 1 << 15
)

// buffer is frames that wait to be written.
type buffer struct {
	frames []frame
	bytes  []byte // of all frames
}

// frame is one frame as it crossed the device.
type frame struct {
	at     int64 // ns since 1970
	size   int   // bytes from the Ethernet header on
	kept   int   // of which so many are in buffer.bytes
	dir    Direction
	virtio virtioHeader // zero without
}

// virtioHeader is the part of struct virtio_net_hdr (linux/virtio_net.h) that says what a
// network card would do to the frame.
type virtioHeader struct {
	needsChecksum       bool
	gso                 uint8
	segment             uint16 // payload bytes of a segment, if gso is not 0
	sumStart, sumOffset uint16
}

// Of linux/virtio_net.h.
const (
	virtioSize      = 10
	virtioNeedsCsum = 1
	virtioGSOUDP    = 5 // VIRTIO_NET_HDR_GSO_UDP_L4
	virtioGSOECN    = 0x80
)

func parseVirtio(b *[virtioSize]byte) virtioHeader {
	le := binary.LittleEndian
	return virtioHeader{
		needsChecksum: b[0]&virtioNeedsCsum != 0,
		gso:           b[1] &^ virtioGSOECN,
		segment:       le.Uint16(b[4:]),
		sumStart:      le.Uint16(b[6:]),
		sumOffset:     le.Uint16(b[8:]),
	}
}

// add copies a frame of n bytes, of which prefix stand before the Ethernet header, and at
// most snaplen from there on if that is not 0. It reports whether there was room.
func (b *buffer) add(iov []unix.Iovec, n, prefix, snaplen int, dir Direction) bool {
	f := frame{at: time.Now().UnixNano(), size: n - prefix, kept: n - prefix, dir: dir}
	if prefix > 0 {
		var hdr [virtioSize]byte
		scatter(hdr[:], iov, 0)
		f.virtio = parseVirtio(&hdr)
	}
	if snaplen > 0 && f.virtio.gso != virtioGSOUDP { // each datagram is shortened later
		f.kept = min(f.kept, snaplen)
	}
	if len(b.frames) >= bufferFrames || len(b.bytes)+f.kept > bufferBytes {
		return false
	}
	at := len(b.bytes)
	b.bytes = slices.Grow(b.bytes, f.kept)[:at+f.kept]
	scatter(b.bytes[at:], iov, prefix)
	b.frames = append(b.frames, f)
	return true
}

// reset empties the buffer and keeps its memory.
func (b *buffer) reset() { b.frames, b.bytes = b.frames[:0], b.bytes[:0] }
