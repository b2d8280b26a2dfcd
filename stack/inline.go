package stack

import (
	"errors"
	"reflect"
	"unsafe"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/seqnum"
	gvisor "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// This file does on the shard's thread what gVisor does on goroutines of its own,
// its processors: while the endpoint is owned by a user, arriving segments only
// queue up; at the end of the batch they are handled at once, with one ACK.
// That saves two wake-ups per batch (15-20 % throughput, a quarter of the CPU
// time per bit).
//
// The handshake goes the same way. gVisor's forwarder would start a goroutine
// for it and pass the guest's ACK through a processor to it: four wake-ups of
// threads for each connection.
//
// It needs these unexported functions of gVisor. They are named here and
// nowhere else, and TestGVisorPin fails when the module's version moves. Whoever
// moves it reads handleConnected and handleConnecting in
// transport/tcp/dispatcher.go again, which finish and step mirror, and
// performHandshake in transport/tcp/accept.go.

//go:linkname handleSegmentsLocked gvisor.dev/gvisor/pkg/tcpip/transport/tcp.(*Endpoint).handleSegmentsLocked
func handleSegmentsLocked(e *tcp.Endpoint) tcpip.Error

//go:linkname resetConnectionLocked gvisor.dev/gvisor/pkg/tcpip/transport/tcp.(*Endpoint).resetConnectionLocked
func resetConnectionLocked(e *tcp.Endpoint, err tcpip.Error)

//go:linkname startTimeWait gvisor.dev/gvisor/pkg/tcpip/transport/tcp.startTimeWait
func startTimeWait(e *tcp.Endpoint)

//go:linkname newListenContext gvisor.dev/gvisor/pkg/tcpip/transport/tcp.newListenContext
func newListenContext(s *gvisor.Stack, protocol unsafe.Pointer, listener *tcp.Endpoint, rcvWnd seqnum.Size, v6Only bool, netProto tcpip.NetworkProtocolNumber) *listenContext

//go:linkname newIncomingSegment gvisor.dev/gvisor/pkg/tcpip/transport/tcp.newIncomingSegment
func newIncomingSegment(id gvisor.TransportEndpointID, clock tcpip.Clock, pkt *gvisor.PacketBuffer) (*segment, error)

//go:linkname parseSynSegmentOptions gvisor.dev/gvisor/pkg/tcpip/transport/tcp.parseSynSegmentOptions
func parseSynSegmentOptions(s *segment) header.TCPSynOptions

//go:linkname decRefSegment gvisor.dev/gvisor/pkg/tcpip/transport/tcp.(*segment).DecRef
func decRefSegment(s *segment)

//go:linkname startHandshake gvisor.dev/gvisor/pkg/tcpip/transport/tcp.(*listenContext).startHandshake
func startHandshake(l *listenContext, s *segment, opts header.TCPSynOptions, queue *waiter.Queue, owner tcpip.PacketOwner) (*handshake, tcpip.Error)

//go:linkname processSegments gvisor.dev/gvisor/pkg/tcpip/transport/tcp.(*handshake).processSegments
func processSegments(h *handshake) tcpip.Error

//go:linkname handshakeFailed gvisor.dev/gvisor/pkg/tcpip/transport/tcp.(*Endpoint).handshakeFailed
func handshakeFailed(e *tcp.Endpoint, err tcpip.Error)

// For connections that go on elsewhere (handover.go):

//go:linkname completeStateLocked gvisor.dev/gvisor/pkg/tcpip/transport/tcp.(*Endpoint).completeStateLocked
func completeStateLocked(e *tcp.Endpoint, s *tcp.TCPEndpointState)

// For the receiver (tail.go):

//go:linkname sharesChunk gvisor.dev/gvisor/pkg/buffer.(*View).sharesChunk
func sharesChunk(v *buffer.View) bool

// The types of these functions' arguments, as far as they are used here.
type (
	listenContext struct{ _ byte }
	segment       struct{ _ byte }
	handshake     struct{ ep *tcp.Endpoint } // gVisor's first field too
)

// queuedProtocol is how gVisor's IP layer sees the protocol TCP.
type queuedProtocol interface {
	QueuePacket(ep gvisor.TransportEndpoint, id gvisor.TransportEndpointID, pkt *gvisor.PacketBuffer)
}

// openInline finds gVisor's protocol TCP and the fields of its endpoint that
// forgetHandshake clears and unacknowledged reads, and makes the context from which
// startHandshake takes its parameters.
func (s *Stack) openInline() error {
	field, ok := reflect.TypeFor[tcp.Endpoint]().FieldByName("h")
	if !ok || field.Type.String() != "*tcp.handshake" {
		return errors.New("gVisor's TCP endpoint has no handshake")
	}
	s.handshakeAt = field.Offset
	queue, ok := reflect.TypeFor[tcp.Endpoint]().FieldByName("sndQueueInfo")
	if !ok {
		return errors.New("gVisor's TCP endpoint has no send queue")
	}
	state, ok := queue.Type.FieldByName("TCPSndBufState")
	if !ok || state.Type != reflect.TypeFor[tcp.TCPSndBufState]() {
		return errors.New("gVisor's TCP endpoint does not count its send queue")
	}
	s.sendQueueAt = queue.Offset + state.Offset
	protocol := s.gv.TransportProtocolInstance(tcp.ProtocolNumber)
	s.tcp = protocol.(queuedProtocol)
	// The second word of an interface is the pointer in it.
	pointer := (*[2]unsafe.Pointer)(unsafe.Pointer(&protocol))[1]
	s.listen = newListenContext(s.gv, pointer, nil, defaultBuffer, true, 0)
	return nil
}

// forgetHandshake drops the handshake when it is complete, as
// performHandshake does. The endpoint would keep 290 bytes for the rest of its
// life.
func (s *Stack) forgetHandshake(ep *tcp.Endpoint) {
	*(**handshake)(unsafe.Add(unsafe.Pointer(ep), s.handshakeAt)) = nil
}

// unacknowledged is the number of bytes in the send queue, sent or not.
func (s *Stack) unacknowledged(ep *tcp.Endpoint) int {
	ep.LockUser()
	defer ep.UnlockUser()
	return (*tcp.TCPSndBufState)(unsafe.Add(unsafe.Pointer(ep), s.sendQueueAt)).SndBufUsed
}

// GVisorVersion is the module version of gVisor that the above was written
// against.
const GVisorVersion = "v0.0.0-20260905035102-160fafc42237"

// lockForBatch takes the endpoint for the rest of the batch.
func (s *Stack) lockForBatch(c *Conn) {
	if !c.locked {
		c.ep.LockUser()
		c.locked = true
		s.in.inline = append(s.in.inline, c)
	}
}

// finishBatch handles the segments that were queued on the locked endpoints
// and unlocks them. Everything that may lock an endpoint in another way must
// call it first.
func (s *Stack) finishBatch() {
	for i, c := range s.in.inline {
		s.in.inline[i] = nil
		c.finish()
	}
	s.in.inline = s.in.inline[:0]
}

func (c *Conn) finish() {
	dead := false
	switch st := c.ep.EndpointState(); st {
	case tcp.StateTimeWait, tcp.StateClose, tcp.StateError:
		// Unlocking wakes a processor, which knows what to do in these states.
	default:
		c.follow(c.acks.received < holdBelow)
		err := handleSegmentsLocked(c.ep)
		c.unfollow()
		switch {
		case err != nil:
			resetConnectionLocked(c.ep, err)
			dead = true
		case c.ep.EndpointState() == tcp.StateClose:
			dead = true
		case c.ep.EndpointState() == tcp.StateTimeWait:
			startTimeWait(c.ep)
		}
	}
	c.locked, c.acks.received = false, 0
	c.ep.UnlockUser()
	if c.tellAcks {
		c.NotifyEvent(waiter.WritableEvents)
	}
	if dead {
		c.dropAck()
		c.wq.Notify(allEvents)
	}
}

// queue queues a segment on an endpoint that is locked for the batch.
func (s *Stack) queue(c *Conn, pkt *gvisor.PacketBuffer) {
	c.acks.received += uint32(pkt.Data().Size())
	s.tcp.QueuePacket(c.ep, c.ep.ID, pkt)
	pkt.DecRef()
}

// begin plays the SYN in and has gVisor send the SYN-ACK. It reports whether
// gVisor took the SYN.
func (h *Handshake) begin(syn *SYN) bool {
	s := h.conn.s
	p := Packet{Src: syn.Src.Addr(), ip: syn.packet, Head: syn.packet[syn.header:]}
	pkt := s.segment(&p, buffer.MakeWithData(syn.packet), true)
	defer pkt.DecRef()
	_, id := idOf(&h.key)
	seg, err := newIncomingSegment(id, s.gv.Clock(), pkt)
	if err != nil {
		return false
	}
	defer decRefSegment(seg)
	o := parseSynSegmentOptions(seg)
	narrowest := min(minMSS, s.link.mtu-header.IPv6MinimumSize-header.TCPMinimumSize)
	inner, terr := startHandshake(s.listen, seg, header.TCPSynOptions{
		MSS: max(o.MSS, uint16(narrowest)), WS: o.WS, TS: o.TS, TSVal: o.TSVal, TSEcr: o.TSEcr, SACKPermitted: o.SACKPermitted,
	}, &h.conn.wq, nil)
	if terr != nil {
		return false
	}
	h.inner, h.conn.ep = inner, inner.ep
	return true
}

// minMSS is the smallest segment size that a guest can impose on the stack, unless the
// link is narrower: each piece costs a kilobyte until it is acknowledged. Every host
// takes segments of this size (RFC 9293 section 3.7.1).
const minMSS = header.TCPDefaultMSS

// step handles what the guest has sent in answer to the SYN-ACK.
func (h *Handshake) step(pkt *gvisor.PacketBuffer) {
	ep := h.conn.ep
	ep.LockUser()
	h.conn.s.queue(h.conn, pkt)
	failed := false
	if ep.EndpointState() == tcp.StateSynRecv {
		if err := processSegments(h.inner); err != nil {
			handshakeFailed(ep, err)
			failed = true
		} else if ep.EndpointState() == tcp.StateEstablished {
			h.conn.s.forgetHandshake(ep)
		}
	}
	ep.UnlockUser()
	if failed {
		h.conn.wq.Notify(allEvents)
	}
	h.moved(0)
}
