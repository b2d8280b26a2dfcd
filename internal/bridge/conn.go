package bridge

import (
	"container/list"
	"net/netip"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"epiphyte/stack"
)

const (
	// busyWithin is how soon a connection has to move what makes it busy.
	busyWithin = time.Second
	// mostFollowed is how many connections that a member has asked for are followed, at up to
	// 1.5 kB each. Beyond that the oldest one is forgotten, and stays on the bridge. Those that
	// have left do not count.
	mostFollowed = 256
	// turnCost is what a segment with data counts for, in bytes, besides what it moves: a round
	// trip of two costs the bridge 30 microseconds of processor time more than sockets that are
	// joined (make bench ROWS=neighbour-rtt-tcp), and a hand-over a millisecond, of which one
	// per 256 segments is a small part.
	turnCost = 4 << 10
	// mostKept bounds what is kept of an end's data while the connection is handed over, in
	// bytes: what it has sent and the other one has not acknowledged, where that is a request
	// or an answer. With more in flight both ways it stays on the bridge.
	mostKept = 16 << 10
)

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

// tuple is a connection as one end sends on it.
type tuple struct{ from, to netip.AddrPort }

// followed is a connection, and which end has sent.
type followed struct {
	conn *Conn
	from int
}

// asked is the connections that a member has asked for and that have not left, the latest first.
type asked struct {
	busyAfter uint64
	conns     list.List
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

// Follow has the port's connections with other such ports followed. One that moves as many
// bytes within a second as both ports say is busy; 0: at once.
func (p *Port) Follow(busyAfter uint64) { p.asked = &asked{busyAfter: busyAfter} }

// Adopt follows a connection that has left the bridge already; see Conn.Leave.
func (b *Bridge) Adopt(ports [2]*Port, addrs [2]netip.AddrPort, strayed func(member int)) *Conn {
	c := &Conn{b: b, strayed: strayed}
	for i := range c.ends {
		c.ends[i] = end{port: ports[i], addr: addrs[i]}
	}
	c.enter()
	return c
}

// ReadAll forwards what waits at the port now, within bounds. It is not called while a frame is
// being forwarded.
func (p *Port) ReadAll() {
	for range readAllMost {
		before := p.from.frames.Load()
		p.Ready(0)
		if p.from.frames.Load() == before {
			return
		}
	}
}

// readAllMost batches hold more than the queue of a TAP, 500 frames.
const readAllMost = 64

// follow notes a segment that passes from p to to, and reports whether it may: not if its
// connection goes on elsewhere, or is about to.
func (b *Bridge) follow(t *table, p, to *Port, f *frame) bool {
	pkt := &f.pkt
	if p.asked == nil || to.asked == nil || p == to || b.cfg.Isolate { // the latter two do not pass
		return true
	}
	if pkt.Proto != stack.ProtoTCP || pkt.Fragment.Present || len(pkt.Head) < header.TCPMinimumSize {
		return true
	}
	h := header.TCP(pkt.Head)
	key := tuple{netip.AddrPortFrom(pkt.Src, h.SourcePort()), netip.AddrPortFrom(pkt.Dst, h.DestinationPort())}
	known := b.conns[key]
	c := known.conn
	switch {
	case c != nil && c.strayed != nil:
		c.strayed(known.from)
		return false
	case int(h.DataOffset()) < header.TCPMinimumSize || int(h.DataOffset()) > len(h):
		return true
	case h.Flags()&(header.TCPFlagSyn|header.TCPFlagAck) == header.TCPFlagSyn:
		b.begin(t, p, to, key, h)
	case c != nil && c.ends[known.from].port == p && c.ends[1-known.from].port == to:
		if c.frozen {
			return false
		}
		c.note(known.from, h, pkt.Head[h.DataOffset():], pkt.Tail)
	}
	return true
}

// begin follows a connection that is being asked for.
func (b *Bridge) begin(t *table, p, to *Port, key tuple, h header.TCP) {
	if c := b.conns[key].conn; c != nil {
		c.end() // it was given up, or the segment is sent again
	}
	if t.byAddr[key.from.Addr()] != p || t.byAddr[key.to.Addr()] != to {
		return // sent on for others
	}
	if key.from.Addr().IsLinkLocalUnicast() || key.to.Addr().IsLinkLocalUnicast() {
		return // a socket would have to know the interface
	}
	c := &Conn{b: b, need: max(p.asked.busyAfter, to.asked.busyAfter), since: b.cfg.Shard.Now()}
	c.ends[0], c.ends[1] = end{port: p, addr: key.from}, end{port: to, addr: key.to}
	c.ends[0].opens(h, false)
	c.enter()
	if c.place = p.asked.conns.PushFront(c); p.asked.conns.Len() > mostFollowed {
		p.asked.conns.Back().Value.(*Conn).end()
	}
}

// opens takes what a SYN says.
func (e *end) opens(h header.TCP, isAck bool) {
	e.syn = header.ParseSynOptions(h.Options(), isAck)
	e.next, e.stamp = h.SequenceNumber()+1, e.syn.TSVal
}

// end is for a connection that is not worth following any longer.
func (c *Conn) end() {
	c.ending = true
	c.Forget()
	c.tell()
}

func (c *Conn) tell() {
	if c.passed != nil {
		c.passed()
	}
}

// note takes what a segment says, with its data in two pieces.
func (c *Conn) note(from int, h header.TCP, head, tail []byte) {
	e, flags, size := &c.ends[from], h.Flags(), len(head)+len(tail)
	if flags.Intersects(header.TCPFlagFin | header.TCPFlagRst) {
		c.end()
		return
	}
	if flags.Contains(header.TCPFlagSyn) {
		switch {
		case from == 0:
		case !plain(h.Options()):
			c.end()
		default:
			e.opens(h, true)
			e.ack = h.AckNumber()
		}
		return
	}
	if !e.talks {
		e.talks, e.ack = true, h.AckNumber()
	}
	if next := h.SequenceNumber() + uint32(size); after(next, e.next) {
		if c.passed != nil {
			e.keep(h.SequenceNumber(), c.ends[1-from].ack, head, tail)
		}
		e.next = next
	}
	if ack := h.AckNumber(); !after(e.ack, ack) {
		e.ack, e.window = ack, h.WindowSize()
	}
	if stamp, ok := timestamp(h.Options()); ok && after(stamp, e.stamp) {
		e.stamp = stamp
	}
	e.moved += uint64(size)
	if size > 0 {
		c.moved += uint64(size) + turnCost
	}
	if c.passed != nil {
		c.passed()
	} else if c.moved >= c.need && size > 0 {
		c.weigh()
	}
}

// weigh sees whether a connection that has moved enough has done so in time.
func (c *Conn) weigh() {
	now := c.b.cfg.Shard.Now()
	fast := now-c.since <= busyWithin || c.need == 0
	c.bulk = c.ends[0].moved+c.ends[1].moved >= c.need/2
	if fast && c.ends[0].talks && c.ends[1].talks {
		c.b.cfg.Busy(c)
	}
	c.since, c.moved = now, 0
	c.ends[0].moved, c.ends[1].moved = 0, 0
}

// after reports whether a is later than b, modulo 2^32 (RFC 9293 section 3.4).
func after(a, b uint32) bool { return int32(a-b) > 0 }

// plain reports whether the options of the answer to a SYN, which are what both members know, agree
// on nothing that a socket would have to know as well: signatures (RFC 5925), Multipath TCP (RFC
// 8684) and the like.
func plain(options []byte) bool {
	const fastOpen = 34 // a cookie for the next connection (RFC 7413)
	for len(options) > 0 {
		switch options[0] {
		case header.TCPOptionEOL:
			return true
		case header.TCPOptionNOP:
			options = options[1:]
		case header.TCPOptionMSS, header.TCPOptionWS, header.TCPOptionSACKPermitted, header.TCPOptionTS, fastOpen:
			if len(options) < 2 || options[1] < 2 || int(options[1]) > len(options) {
				return false
			}
			options = options[options[1]:]
		default:
			return false
		}
	}
	return true
}

// timestamp is the value of the timestamps option, where it is as kernels place it (RFC 7323
// appendix A).
func timestamp(options []byte) (value uint32, ok bool) {
	const size = 12 // with two NOPs
	if len(options) < size || options[0] != header.TCPOptionNOP || options[1] != header.TCPOptionNOP ||
		options[2] != header.TCPOptionTS || options[3] != header.TCPOptionTSLength {
		return 0, false
	}
	return uint32(options[4])<<24 | uint32(options[5])<<16 | uint32(options[6])<<8 | uint32(options[7]), true
}
