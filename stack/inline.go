package stack

import (
	"unsafe"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/seqnum"
	gvisor "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// The inline path does in the shard's thread what gVisor's processor
// goroutines do: while the endpoint is owned by a user, arriving segments only
// queue up; at the end of the batch they are handled at once, with one ACK.
// That saves two wake-ups per batch (15-20 % throughput, a quarter of the CPU
// time per bit against the processors).
//
// The handshake goes the same way. gVisor's forwarder would start a goroutine
// for it and pass the guest's ACK through a processor to it: four wake-ups of
// threads for each connection.
//
// It needs these unexported functions of gVisor. They are named here and
// nowhere else, and TestGVisorPin fails when the module's version moves: read
// anew then handleConnected and handleConnecting in
// transport/tcp/dispatcher.go, which finish and step mirror, and
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

// The receiver needs this one (tail.go):

//go:linkname sharesChunk gvisor.dev/gvisor/pkg/buffer.(*View).sharesChunk
func sharesChunk(v *buffer.View) bool

// The types of these functions' arguments, as far as they are looked into here.
type (
	listenContext struct{ _ byte }
	segment       struct{ _ byte }
	handshake     struct{ ep *tcp.Endpoint } // gVisor's first field too
)

// queuedProtocol is how gVisor's IP layer sees the protocol TCP.
type queuedProtocol interface {
	QueuePacket(ep gvisor.TransportEndpoint, id gvisor.TransportEndpointID, pkt *gvisor.PacketBuffer)
}

// openInline finds gVisor's protocol TCP, and makes what startHandshake takes
// its parameters from.
func (s *Stack) openInline() {
	protocol := s.gv.TransportProtocolInstance(tcp.ProtocolNumber)
	s.tcp = protocol.(queuedProtocol)
	// The second word of an interface is the pointer in it.
	pointer := (*[2]unsafe.Pointer)(unsafe.Pointer(&protocol))[1]
	s.listen = newListenContext(s.gv, pointer, nil, defaultBuffer, true, 0)
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
// and lets go of them. Everything that may lock an endpoint by other ways must
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
	if dead {
		c.dropAck()
		c.wq.Notify(allEvents)
	}
}

// queue queues a segment on an endpoint that is locked for the batch.
func (s *Stack) queue(c *Conn, pkt *gvisor.PacketBuffer) {
	c.acks.received += pkt.Data().Size()
	s.tcp.QueuePacket(c.ep, c.id, pkt)
	pkt.DecRef()
}

// begin plays the SYN in and has gVisor send the SYN-ACK.
func (h *Handshake) begin(pkt *gvisor.PacketBuffer) {
	defer pkt.DecRef()
	_, id := idOf(&h.key)
	seg, err := newIncomingSegment(id, h.s.gv.Clock(), pkt)
	if err != nil {
		return
	}
	defer decRefSegment(seg)
	o := parseSynSegmentOptions(seg)
	hs, terr := startHandshake(h.s.listen, seg, header.TCPSynOptions{
		MSS: o.MSS, WS: o.WS, TS: o.TS, TSVal: o.TSVal, TSEcr: o.TSEcr, SACKPermitted: o.SACKPermitted,
	}, h.wq, nil)
	if terr != nil {
		return
	}
	h.taken, h.inline = true, hs
	h.conn = &Conn{s: h.s, ep: hs.ep, id: id, wq: h.wq, notify: h.moved}
	h.conn.register()
}

// step handles what the guest has sent in answer to the SYN-ACK.
func (h *Handshake) step(pkt *gvisor.PacketBuffer) {
	ep := h.inline.ep
	ep.LockUser()
	h.s.queue(h.conn, pkt)
	failed := false
	if st := ep.EndpointState(); st == tcp.StateSynRecv {
		if err := processSegments(h.inline); err != nil {
			handshakeFailed(ep, err)
			failed = true
		}
	}
	ep.UnlockUser()
	if failed {
		h.wq.Notify(allEvents)
	}
	h.moved(0)
}
