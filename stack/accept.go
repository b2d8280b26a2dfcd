package stack

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	gvisor "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// Tuple identifies a TCP connection among all of the guest's. It is comparable.
// IPv4 addresses are held v4-mapped.
type Tuple struct {
	src, dst         [16]byte // guest, outside
	srcPort, dstPort uint16
}

func tupleOf(p *Packet) Tuple {
	return Tuple{src: p.Src.As16(), dst: p.Dst.As16(), srcPort: p.SrcPort(), dstPort: p.DstPort()}
}

func tupleOfAddrs(guest, outside netip.AddrPort) Tuple {
	return Tuple{src: guest.Addr().As16(), dst: outside.Addr().As16(), srcPort: guest.Port(), dstPort: outside.Port()}
}

// SYN is a guest's request for a connection. It is valid during the Handler's call, and
// a Clone beyond. Data that came with it (RFC 7413, TCP Fast Open) is not kept: it is not
// acknowledged, so the guest sends it again.
type SYN struct {
	Src, Dst  netip.AddrPort
	Key       Tuple
	seq, next uint32 // its sequence number, and the one after all that it carried
	packet    []byte // the IP and TCP headers
	header    int    // length of the former
}

// set makes y that of a packet.
func (y *SYN) set(p *Packet, key Tuple) {
	tcp := header.TCP(p.Head)
	ip, offset := p.HeaderLen(), int(tcp.DataOffset())
	*y = SYN{
		Src:    netip.AddrPortFrom(p.Src, key.srcPort),
		Dst:    netip.AddrPortFrom(p.Dst, key.dstPort),
		Key:    key,
		seq:    tcp.SequenceNumber(),
		next:   tcp.SequenceNumber() + 1 + uint32(len(p.Head)-offset+len(p.Tail)),
		packet: append(y.packet[:0], p.ip[:ip+offset]...),
		header: ip,
	}
}

// Clone returns a copy that may be kept.
func (y *SYN) Clone() *SYN {
	c := *y
	c.packet = bytes.Clone(y.packet)
	return &c
}

// Quote is the quote of the SYN.
func (y *SYN) Quote() Quote {
	q := Quote{Src: y.Src.Addr(), Dst: y.Dst.Addr(), Proto: ProtoTCP}
	binary.BigEndian.PutUint16(q.Transport[0:], y.Src.Port())
	binary.BigEndian.PutUint16(q.Transport[2:], y.Dst.Port())
	binary.BigEndian.PutUint32(q.Transport[4:], y.seq)
	return q
}

// Handshake is a connection that was accepted or dialled and waits for the guest. It
// belongs to the shard's thread.
type Handshake struct {
	key   Tuple
	conn  *Conn
	inner *handshake              // gVisor's, if it was accepted
	done  func(*Conn, unix.Errno) // nil once it was called
}

// Accept completes the handshake that the SYN began: the guest gets its
// SYN-ACK now. done is called on the shard's thread, once, with the connection
// or with the reason why there is none (the guest reset it, did not answer, or
// Abort was called). It may be called before Accept returns.
//
// There must be no other handshake of the same tuple: the Handler is not called
// for its SYNs until done.
func (s *Stack) Accept(syn *SYN, done func(*Conn, unix.Errno)) *Handshake {
	s.finishBatch()
	s.evictTimeWait(syn)
	h := &Handshake{key: syn.Key, conn: &Conn{s: s}, done: done}
	if !h.begin(syn) {
		h.done = nil
		done(nil, unix.EIO)
		return h
	}
	h.watch()
	h.conn.acks.last = syn.seq + 1
	s.accepting[h.key] = h
	return h
}

// watch starts to listen to the handshake's events.
func (h *Handshake) watch() {
	h.conn.notify = h.moved
	h.conn.register()
}

// Abort gives up a handshake. done is called with ECONNABORTED before Abort
// returns, unless it was called already.
func (h *Handshake) Abort() {
	if h.done != nil {
		h.conn.ep.Abort()
		h.settle(unix.ECONNABORTED)
	}
}

// moved checks whether the handshake has ended.
func (h *Handshake) moved(Readiness) {
	if h.done == nil {
		return
	}
	switch h.conn.ep.EndpointState() {
	case tcp.StateSynSent, tcp.StateSynRecv, tcp.StateConnecting:
	case tcp.StateError, tcp.StateClose:
		h.settle(cmp.Or(toErrno(h.conn.ep.LastError()), unix.ECONNRESET))
	default:
		h.settle(0)
	}
}

// settle ends the handshake, once: with a connection if errno is zero.
func (h *Handshake) settle(errno unix.Errno) {
	c, done := h.conn, h.done
	h.done = nil
	c.notify = nil
	delete(c.s.accepting, h.key)
	if errno != 0 {
		c.discard()
		done(nil, errno)
		return
	}
	c.s.conns[h.key] = c
	c.s.reserve(c)
	done(c, 0)
}

// discard closes a connection that was never handed out.
func (c *Conn) discard() {
	c.unregister()
	c.unclaim()
	c.closed = true
	c.ep.Close()
}

// evictTimeWait ends a former connection of the same Tuple that gVisor still
// remembers. The guest asks for a new one, so it has forgotten the old one
// (RFC 9293 section 3.10.7.4 lets a new SYN end TIME-WAIT).
func (s *Stack) evictTimeWait(syn *SYN) {
	proto, id := idOf(&syn.Key)
	if ep, ok := s.gv.FindTransportEndpoint(proto, tcp.ProtocolNumber, id, nicID).(*tcp.Endpoint); ok && ep != nil {
		ep.Abort()
	}
}

func idOf(t *Tuple) (tcpip.NetworkProtocolNumber, gvisor.TransportEndpointID) {
	id := gvisor.TransportEndpointID{LocalPort: t.dstPort, RemotePort: t.srcPort}
	src, dst := netip.AddrFrom16(t.src), netip.AddrFrom16(t.dst)
	if src.Is4In6() {
		id.LocalAddress, id.RemoteAddress = tcpip.AddrFrom4(dst.As4()), tcpip.AddrFrom4(src.As4())
		return header.IPv4ProtocolNumber, id
	}
	id.LocalAddress, id.RemoteAddress = tcpip.AddrFrom16(t.dst), tcpip.AddrFrom16(t.src)
	return header.IPv6ProtocolNumber, id
}

// opens reports whether a segment with these flags asks for a connection.
func opens(flags header.TCPFlags) bool {
	return flags&(header.TCPFlagSyn|header.TCPFlagAck|header.TCPFlagRst) == header.TCPFlagSyn
}
