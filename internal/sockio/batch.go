package sockio

import "golang.org/x/sys/unix"

const (
	// BatchSize messages are moved by one system call at most. More bring little:
	// the call itself is a tenth of a microsecond of each.
	BatchSize = 16
	// datagramMax is the largest datagram, rounded up to whole pages.
	datagramMax = 1 << 16
	// controlMax is room for the control messages that anybody here asks for.
	controlMax = 64
)

// Batch is scratch space for a batch of datagrams, one shard's. Its buffers
// are touched, and so become memory, only as far as traffic needs them.
type Batch struct {
	Msgs    [BatchSize]Message
	Addrs   [BatchSize]Addr
	Iovs    [BatchSize]unix.Iovec
	Control [BatchSize][controlMax]byte
	buffers []byte // BatchSize times datagramMax, made when first needed
}

// Receive receives what waits, with control messages if asked for.
func (b *Batch) Receive(fd int, control bool) (int, unix.Errno) {
	if b.buffers == nil {
		b.buffers = make([]byte, BatchSize*datagramMax)
	}
	for i := range b.Msgs {
		b.Iovs[i] = Vec(b.buffers[i*datagramMax : (i+1)*datagramMax])
		h := &b.Msgs[i].Hdr
		*h = unix.Msghdr{Iov: &b.Iovs[i], Iovlen: 1}
		b.Addrs[i].Room(h)
		if control {
			h.Control = &b.Control[i][0]
			h.SetControllen(controlMax)
		}
	}
	n, errno := ReceiveMessages(fd, b.Msgs[:])
	for i := range n {
		b.Addrs[i].len = b.Msgs[i].Hdr.Namelen // so that one can be answered
	}
	return n, errno
}

// Datagram is the payload of the i-th datagram received.
func (b *Batch) Datagram(i int) []byte {
	return b.buffers[i*datagramMax:][:b.Msgs[i].Len]
}

// ControlOf is the control messages of the i-th datagram received.
func (b *Batch) ControlOf(i int) []byte {
	return b.Control[i][:min(int(b.Msgs[i].Hdr.Controllen), controlMax)]
}
