package stack

import (
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	gvisor "gvisor.dev/gvisor/pkg/tcpip/stack"
)

// gVisor acknowledges each batch at once. After a request the answer is often
// there within microseconds, and carries an acknowledgement itself: the first
// one was a system call, a frame and a trip through the guest's kernel for
// nothing. So the acknowledgement of a small batch is held back until something
// else is sent to the guest, more arrives (RFC 5681 section 4.2: every second
// segment at the latest), or the shard has nothing else to do and goes to
// sleep: a sender that waits for the acknowledgement (Nagle) does not feel it.
// A timer covers a shard that never sleeps.
//
// It is held back in the link, and gVisor takes it for sent. The link looks at what
// a connection sends while the shard works on it; meanwhile the connection is
// "followed".

const (
	// ackDelay bounds the wait while the shard is busy. RFC 9293 section
	// 3.8.6.3 allows half a second, and Linux takes 40 ms. When the shard slept
	// with this timer armed, round trips took half as long again, since arming
	// the processor's timer is expensive on virtual machines.
	ackDelay = time.Millisecond
	// holdBelow is the size of the batches that count as small. A stream gains
	// nothing by waiting.
	holdBelow = 96 << 10
	// ackHeader is the longest TCP header of an acknowledgement that may wait:
	// with timestamps, but without SACK blocks, which tell of a loss.
	ackHeader = header.TCPMinimumSize + 12
)

// acks is what one connection has acknowledged. It belongs to the shard's
// thread.
type acks struct {
	held     *gvisor.PacketBuffer // the one that waits
	last     uint32               // the highest sent, or held
	received uint32               // payload in the batch, in bytes
	hold     bool                 // the current step may hold one back
	listed   bool                 // in Stack.held
}

// follow makes the link look at what c sends, until unfollow.
func (c *Conn) follow(hold bool) {
	c.acks.hold = hold
	c.s.link.followed.Store(c)
}

func (c *Conn) unfollow() { c.s.link.followed.Store(nil) }

// intercept looks at a segment that is about to leave while c is followed, and
// reports whether it is held back. It may be another connection's, sent by a
// goroutine of gVisor's: then nothing is touched.
func (c *Conn) intercept(pkt *gvisor.PacketBuffer) (held bool) {
	h := header.TCP(pkt.TransportHeader().Slice())
	flags := h.Flags()
	id := &c.ep.ID
	if h.SourcePort() != id.LocalPort || h.DestinationPort() != id.RemotePort ||
		flags&header.TCPFlagAck == 0 || flags&header.TCPFlagRst != 0 {
		return false
	}
	if src, dst := addresses(pkt); src != addrFrom(id.LocalAddress) || dst != addrFrom(id.RemoteAddress) {
		return false
	}
	a := &c.acks
	first, ack := a.held == nil, h.AckNumber()
	pure := flags == header.TCPFlagAck && pkt.Data().Size() == 0
	held = a.hold && first && ack != a.last && pure && len(h) <= ackHeader
	if pure && !first && ack == a.last {
		c.s.link.writePacket(a.held) // the sender counts duplicates (RFC 5681 section 3.2)
	}
	c.dropAck()
	a.last = ack
	if held {
		a.held = pkt.IncRef()
		c.s.holdAck(c)
	}
	return held
}

// dropAck forgets the acknowledgement that waits: a later one leaves.
func (c *Conn) dropAck() {
	if c.acks.held != nil {
		c.acks.held.DecRef()
		c.acks.held = nil
	}
}

// holdAck arranges that c's acknowledgement leaves in time.
func (s *Stack) holdAck(c *Conn) {
	if !c.acks.listed {
		c.acks.listed = true
		s.held = append(s.held, c)
	}
	if !s.shard.Armed(&s.ackTimer) {
		s.shard.Arm(&s.ackTimer, ackDelay, (*ackTask)(s))
	}
}

// ackTask sends the acknowledgements that wait.
type ackTask Stack

func (t *ackTask) Run() {
	s := (*Stack)(t)
	if len(s.held) == 0 {
		return
	}
	s.shard.Disarm(&s.ackTimer)
	for i, c := range s.held {
		s.held[i] = nil
		c.acks.listed = false
		if c.acks.held != nil {
			s.link.writePacket(c.acks.held)
			c.dropAck()
		}
	}
	s.held = s.held[:0]
}
