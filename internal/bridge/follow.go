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
)

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

// Follow has the port's connections with other such ports followed. One that moves as many
// bytes within a second as both ports say is busy; 0: at once.
func (p *Port) Follow(busyAfter uint64) { p.asked = &asked{busyAfter: busyAfter} }

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
