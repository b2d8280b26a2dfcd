package stack

import (
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// Frozen is the state from which another endpoint continues a connection where one
// has stopped.
type Frozen struct {
	Guest, Outside     netip.AddrPort
	SendNext, RecvNext uint32 // sequence numbers
	// Unacknowledged is data from SendNext on that was sent, and may have arrived.
	Unacknowledged []byte
	// SendWindow is what the guest accepts, and RecvWindow what it has been offered, in
	// bytes.
	SendWindow, RecvWindow uint32
	SendScale, RecvScale   uint8
	MSS                    uint16 // the guest's
	SACK, Timestamps       bool
	Timestamp              uint32 // in milliseconds, no earlier than the last one sent
}

// timestampSize is what timestamps take of each segment, padded (RFC 7323 appendix A).
const timestampSize = 12

// TellAcks has SetNotify's function called, with Writable, whenever the guest may have
// acknowledged something. Writing alone does not need to know so soon.
func (c *Conn) TellAcks(on bool) { c.tellAcks = on }

// Acknowledged reports whether the guest has acknowledged all that was written.
func (c *Conn) Acknowledged() bool {
	c.s.finishBatch()
	return c.s.unacknowledged(c.ep) == 0
}

// Freeze stops the connection if nothing is in flight: all that was written has been
// acknowledged, all that arrived has been read, without a gap, and neither side has closed.
// Segments from the guest are then ignored until Thaw.
func (c *Conn) Freeze() (f Frozen, ok bool) {
	c.s.finishBatch()
	if c.closed || c.ep.EndpointState() != tcp.StateEstablished {
		return f, false
	}
	var st tcp.TCPEndpointState
	c.ep.LockUser()
	completeStateLocked(c.ep, &st)
	c.ep.UnlockUser()
	if st.SndBufState.SndBufUsed > 0 || st.Sender.SndUna != st.Sender.SndNxt || st.SndBufState.SndClosed ||
		st.RcvBufState.RcvBufUsed > 0 || st.Receiver.PendingBufUsed > 0 || st.RcvBufState.RcvClosed ||
		c.ep.EndpointState() != tcp.StateEstablished {
		return f, false
	}
	f = Frozen{
		Guest: c.RemoteAddr(), Outside: c.LocalAddr(),
		SendNext: uint32(st.Sender.SndNxt), RecvNext: uint32(st.Receiver.RcvNxt),
		SendWindow: uint32(st.Sender.SndWnd), RecvWindow: uint32(st.Receiver.RcvNxt.Size(st.Receiver.RcvAcc)),
		SendScale: st.Sender.SndWndScale, RecvScale: st.Receiver.RcvWndScale,
		SACK: st.SACKPermitted, Timestamps: st.SendTSOk,
		Timestamp: st.TSOffset.TSVal(c.s.gv.Clock().NowMonotonic()),
	}
	mss := st.Sender.MaxPayloadSize
	if f.Timestamps {
		mss += timestampSize
	}
	f.MSS = uint16(min(mss, 1<<16-1))
	c.dropAck() // the other endpoint acknowledges as much
	c.frozen = true
	return f, true
}

// Thaw undoes Freeze. The guest retransmits what it has sent meanwhile.
func (c *Conn) Thaw() { c.frozen = false }

// Leave gives up a frozen connection, which goes on elsewhere, and tells the guest nothing.
// What the guest still sends here is ignored until Forget, but strayed is called for each
// segment.
func (c *Conn) Leave(strayed func()) {
	c.strayed = strayed
	c.unregister()
	c.notify = nil
	c.closed = true
	c.ep.LockUser()
	resetConnectionLocked(c.ep, &tcpip.ErrConnectionReset{}) // sends nothing
	c.ep.UnlockUser()
	c.ep.Close()
	c.keep(0)
}

// Forget follows Leave when the connection has ended elsewhere.
func (c *Conn) Forget() { c.s.forget(c) }

// ReadAll reads what waits on the device now, within bounds.
func (c *Conn) ReadAll() {
	s := c.s
	for range readAllMost {
		before := s.in.stats.FromFrames
		s.Ready(0)
		if s.in.stats.FromFrames == before {
			return
		}
	}
}

// readAllMost batches hold more than the queue of a TAP, 500 frames.
const readAllMost = 64
