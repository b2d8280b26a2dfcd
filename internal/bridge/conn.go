package bridge

import (
	"container/list"
	"net/netip"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"epiphyte/stack"
)

// mostKept bounds what is kept of an end's data while the connection is handed over, in
// bytes: what it has sent and the other one has not acknowledged, where that is a request
// or an answer. With more in flight both ways it stays on the bridge.
const mostKept = 16 << 10

// Conn is a TCP connection between two members that the bridge follows: it has seen the
// handshake, and reads the headers of what passes, so that sockets can take the place of either
// end (package bypass). A member that lies in its segments lies about its own connections.
// Shard's thread only.
type Conn struct {
	b       *Bridge
	ends    [2]end // the first one asked for the connection
	ending  bool   // either has sent FIN or RST, or begun anew
	need    uint64 // bytes within busyWithin that make it busy
	moved   uint64 // since, of what counts
	bulk    bool   // it is busy by its bytes
	since   time.Duration
	passed  func()           // after each segment; nil: nobody waits for one
	frozen  bool             // its segments are dropped, for now
	strayed func(member int) // of a connection that has left; nil: it has not
	place   *list.Element    // in what the first end has asked for
}

// end is one member's side of a connection, as its segments say.
type end struct {
	port   *Port
	addr   netip.AddrPort
	syn    header.TCPSynOptions
	next   uint32 // after the last byte, or SYN, that it has sent
	ack    uint32 // of the last byte that it has received, and one
	window uint16 // not scaled
	stamp  uint32 // the last timestamp
	talks  bool   // it has sent more than its SYN
	moved  uint64 // bytes, within busyWithin
	kept   []byte // the last ones that it has sent, while somebody waits
}

// Port is where a member is on the bridge; member is 0 for the one that asked for the
// connection, else 1.
func (c *Conn) Port(member int) *Port { return c.ends[member].port }

// Addr is a member's address and port.
func (c *Conn) Addr(member int) netip.AddrPort { return c.ends[member].addr }

// Ending reports whether either member has begun to end the connection.
func (c *Conn) Ending() bool { return c.ending }

// Sender is the member that has sent more when the connection was found busy.
func (c *Conn) Sender() int {
	if c.ends[1].moved > c.ends[0].moved {
		return 1
	}
	return 0
}

// Bulk reports whether the connection is busy by its bytes, and not by how often it has sent.
func (c *Conn) Bulk() bool { return c.bulk }

// Acknowledged reports whether the other one has acknowledged all that a member has sent.
func (c *Conn) Acknowledged(member int) bool { return c.ends[1-member].ack == c.ends[member].next }

// Freeze has the connection's segments dropped until Stay: its members' kernels hold
// them, but for one that was just being sent. A socket that is restored meanwhile knows nothing
// of it, and its sender sends it again.
func (c *Conn) Freeze() { c.frozen = true }

// Await has passed called after each segment of the connection, until nil is given.
func (c *Conn) Await(passed func()) {
	c.passed = passed
	c.ends[0].kept, c.ends[1].kept = nil, nil
}

// Stay leaves the connection on the bridge until it moves twice as much.
func (c *Conn) Stay() {
	c.Await(nil)
	c.frozen = false
	c.need = max(2*c.need, minBusy)
}

// minBusy is what a connection has to move before it is tried a second time, in bytes.
const minBusy = 1 << 20

// Leave ends the forwarding of a connection that goes on elsewhere: its segments are dropped,
// and strayed is called for each, with the member that has sent it. Forget comes next.
func (c *Conn) Leave(strayed func(member int)) {
	c.Await(nil)
	c.strayed = strayed
	c.unlist()
	c.enter() // again: while it was handed over, the member may have asked for many others
}

// enter has its segments found.
func (c *Conn) enter() {
	for i := range c.ends {
		c.b.conns[tuple{c.ends[i].addr, c.ends[1-i].addr}] = followed{c, i}
	}
}

// Forget ends the following of a connection.
func (c *Conn) Forget() {
	for i := range c.ends {
		key := tuple{c.ends[i].addr, c.ends[1-i].addr}
		if c.b.conns[key].conn == c {
			delete(c.b.conns, key)
		}
	}
	c.unlist()
}

// unlist takes the connection out of what its first end has asked for, if it is there.
func (c *Conn) unlist() {
	if c.place != nil {
		c.ends[0].port.asked.conns.Remove(c.place)
	}
}

// Frozen is the state in which a socket in a member's namespace continues the connection as its
// other end. What either member has sent and the other one has not acknowledged is Unacknowledged
// at the other's socket. It must have been kept: the other one may have received it, and a kernel
// drops what acknowledges more than its socket has sent.
func (c *Conn) Frozen(member int) (f stack.Frozen, ok bool) {
	own, other := &c.ends[member], &c.ends[1-member]
	received, all := own.unacknowledged(other.ack) // which is Unacknowledged at the other socket
	sent, allSent := other.unacknowledged(own.ack)
	if c.ending || !own.talks || !other.talks || !all || !allSent {
		return f, false
	}
	f = stack.Frozen{
		Guest: own.addr, Outside: other.addr,
		SendNext: own.ack, RecvNext: other.ack + uint32(len(received)), Unacknowledged: sent,
		MSS:        own.syn.MSS,
		SACK:       own.syn.SACKPermitted && other.syn.SACKPermitted,
		Timestamps: own.syn.TS && other.syn.TS,
		Timestamp:  other.stamp,
	}
	if own.syn.WS >= 0 && other.syn.WS >= 0 {
		f.SendScale, f.RecvScale = uint8(own.syn.WS), uint8(other.syn.WS)
	}
	// The other member's window begins at what it has acknowledged.
	f.SendWindow, f.RecvWindow = uint32(own.window)<<f.SendScale, uint32(other.window)<<f.RecvScale
	f.RecvWindow -= min(f.RecvWindow, uint32(len(received)))
	return f, true
}

// keep adds data that begins at a sequence number, and drops what was acknowledged up to ack.
func (e *end) keep(seq, ack uint32, head, tail []byte) {
	if left, ok := e.unacknowledged(ack); ok {
		e.kept = left
	}
	if seq != e.next || len(e.kept)+len(head)+len(tail) > mostKept {
		e.kept = nil // what is left of it would have a gap, or is too much
		if seq != e.next || len(head)+len(tail) > mostKept {
			return
		}
	}
	e.kept = append(append(e.kept, head...), tail...)
}

// unacknowledged is what the end has sent from ack on, if it was kept.
func (e *end) unacknowledged(ack uint32) (b []byte, ok bool) {
	if n := e.next - ack; n <= uint32(len(e.kept)) {
		return e.kept[uint32(len(e.kept))-n:], true
	}
	return nil, false
}

// Adopt follows a connection that has left the bridge already; see Conn.Leave.
func (b *Bridge) Adopt(ports [2]*Port, addrs [2]netip.AddrPort, strayed func(member int)) *Conn {
	c := &Conn{b: b, strayed: strayed}
	for i := range c.ends {
		c.ends[i] = end{port: ports[i], addr: addrs[i]}
	}
	c.enter()
	return c
}
