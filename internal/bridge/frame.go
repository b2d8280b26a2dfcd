package bridge

import (
	"net/netip"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"epiphyte/internal/sockio"
	"epiphyte/stack"
)

// frame is a frame that was read, in the reader's buffers.
type frame struct {
	whole      []unix.Iovec // no longer than the frame
	virtio     []byte
	eth        header.Ethernet
	head, tail []byte // the packet, in two pieces
	pkt        stack.Packet
	target     netip.Addr // of a question
}

// load takes a frame of n bytes, laid out as Readv says. It reports false if there is
// no packet in it.
func (f *frame) load(iov []unix.Iovec, n int) bool {
	f.whole = f.whole[:0]
	for i := range iov {
		part := sockio.Bytes(&iov[i])
		part = part[:min(n, len(part))]
		if len(part) == 0 {
			break
		}
		f.whole = append(f.whole, sockio.Vec(part))
		n -= len(part)
	}
	if len(f.whole) < 3 {
		return false
	}
	f.virtio, f.eth = sockio.Bytes(&f.whole[0]), sockio.Bytes(&f.whole[1])
	f.head, f.tail = sockio.Bytes(&f.whole[2]), nil
	if len(f.whole) > 3 {
		f.tail = sockio.Bytes(&f.whole[3])
	}
	return true
}

func (f *frame) src() [6]byte { return [6]byte(f.eth[header.EthernetAddressSize:]) }
func (f *frame) dst() [6]byte { return [6]byte(f.eth) }

// filledBefore reports whether the frame leaves the next kernel to fill in a checksum in
// the first end bytes of the packet.
func (f *frame) filledBefore(end int) bool {
	at, ok := stack.PartialChecksum(f.virtio)
	return ok && at-header.EthernetMinimumSize < end
}
