package stack

import (
	"encoding/binary"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	gvisor "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
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

func tupleOfID(id gvisor.TransportEndpointID) Tuple {
	return Tuple{src: as16(id.RemoteAddress), dst: as16(id.LocalAddress), srcPort: id.RemotePort, dstPort: id.LocalPort}
}

func as16(a tcpip.Address) [16]byte {
	if a.Len() == 4 {
		return netip.AddrFrom4(a.As4()).As16()
	}
	return a.As16()
}

// SYN is a guest's request for a connection. It outlives the packet.
type SYN struct {
	Src, Dst netip.AddrPort
	Key      Tuple
	seq      uint32
	packet   []byte // from the IP header on
	header   int    // length of the IP header
}

func newSYN(p *Packet, key Tuple) *SYN {
	return &SYN{
		Src:    netip.AddrPortFrom(p.Src, key.srcPort),
		Dst:    netip.AddrPortFrom(p.Dst, key.dstPort),
		Key:    key,
		seq:    binary.BigEndian.Uint32(p.Head[4:]),
		packet: append([]byte(nil), p.ip...),
		header: len(p.ip) - len(p.Head),
	}
}

func (y *SYN) network() tcpip.NetworkProtocolNumber {
	if y.Src.Addr().Is6() {
		return header.IPv6ProtocolNumber
	}
	return header.IPv4ProtocolNumber
}

// Quote is the quote of the SYN.
func (y *SYN) Quote() Quote {
	q := Quote{Src: y.Src.Addr(), Dst: y.Dst.Addr(), Proto: ProtoTCP}
	binary.BigEndian.PutUint16(q.Transport[0:], y.Src.Port())
	binary.BigEndian.PutUint16(q.Transport[2:], y.Dst.Port())
	binary.BigEndian.PutUint32(q.Transport[4:], y.seq)
	return q
}

// Handshake is a connection that was accepted and waits for the guest's ACK.
type Handshake struct {
	s    *Stack
	key  Tuple
	wq   *waiter.Queue // the connection's: it outlives the handshake
	done func(*Conn, unix.Errno)

	// The shard's thread only:
	taken  bool       // by gVisor
	inline *handshake // nil on the plain path
	conn   *Conn      // of the inline path, not established yet

	// The plain path's:
	aborted  atomic.Bool
	finished chan struct{} // closed when gVisor's part is over
}

// Accept completes the handshake that the SYN began: the guest gets its
// SYN-ACK now. done is called on the shard's thread, once, with the connection
// or with the reason why there is none (the guest reset it, did not answer, or
// Abort was called).
//
// There must be no other handshake of the same tuple: the Handler is not called
// for its SYNs until done.
//
// On the plain path gVisor's forwarder runs each handshake on a goroutine of its
// own, which ends when done is called. The caller bounds how many there are.
func (s *Stack) Accept(syn *SYN, done func(*Conn, unix.Errno)) *Handshake {
	h := &Handshake{s: s, key: syn.Key, wq: new(waiter.Queue), done: done}
	s.finishBatch()
	s.evictTimeWait(syn)
	s.setAccepting(syn.Key, h)
	if s.plain {
		h.finished = make(chan struct{})
		s.inject(buffer.MakeWithData(syn.packet), syn.network(), true)
	} else {
		p := Packet{Src: syn.Src.Addr(), ip: syn.packet, Head: syn.packet[syn.header:]}
		h.begin(s.segment(&p, buffer.MakeWithData(syn.packet), true))
		if h.conn != nil {
			h.conn.acks.last = syn.seq + 1
		}
	}
	if !h.taken {
		s.finishHandshake(h, nil, unix.EIO)
	}
	return h
}

// Abort gives up a handshake; done is called with ECONNABORTED, now or soon.
func (h *Handshake) Abort() {
	if h.aborted.Swap(true) {
		return
	}
	if h.conn != nil {
		h.conn.ep.Abort()
		h.settle(nil, unix.ECONNABORTED)
		return
	}
	if !h.s.plain {
		return // settled
	}
	go h.interrupt()
}

// moved looks at what an inline handshake has come to.
func (h *Handshake) moved(Readiness) {
	if h.conn == nil {
		return // settled
	}
	switch st := h.conn.ep.EndpointState(); st {
	case tcp.StateSynRecv, tcp.StateConnecting:
	case tcp.StateError, tcp.StateClose:
		errno := toErrno(h.conn.ep.LastError())
		if errno == 0 {
			errno = unix.ECONNABORTED
		}
		h.settle(nil, errno)
	default:
		h.settle(h.conn, 0)
	}
}

// settle ends an inline handshake, once.
func (h *Handshake) settle(c *Conn, errno unix.Errno) {
	h.conn.notify = nil
	h.conn.unregister()
	if c == nil {
		h.conn.closed = true
		h.conn.ep.Close()
	}
	h.conn = nil
	h.s.finishHandshake(h, c, errno)
}

// interrupt ends gVisor's wait for the guest's ACK: performHandshake looks at
// the state after each such event. Events are not kept for whoever listens
// later, and the goroutine may only just have started, hence the repetition.
func (h *Handshake) interrupt() {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		h.wq.Notify(waiter.WritableEvents)
		select {
		case <-h.finished:
			return
		case <-tick.C:
		}
	}
}

// evictTimeWait ends a former connection of the same Tuple that gVisor still
// remembers. The guest asks for a new one, so it has forgotten the old one
// (RFC 9293 section 3.10.7.4 lets a new SYN end TIME-WAIT).
func (s *Stack) evictTimeWait(syn *SYN) {
	if c := s.conns[syn.Key]; c != nil {
		c.ep.Abort()
		return
	}
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

// handleTCP is gVisor's handler for segments that belong to no endpoint of its
// demuxer: those of connections that have left it, in fragments, and SYNs that
// Accept plays in, on the plain path. Other SYNs that come this way, in fragments,
// are dropped, and what is no SYN is answered with a RST by gVisor.
func (s *Stack) handleTCP(id gvisor.TransportEndpointID, pkt *gvisor.PacketBuffer) bool {
	if !s.plain {
		if c := s.conns[tupleOfID(id)]; c != nil {
			s.lockForBatch(c)
			s.queue(c, pkt.IncRef())
			return true
		}
	}
	flags := header.TCP(pkt.TransportHeader().Slice()).Flags()
	if flags&(header.TCPFlagSyn|header.TCPFlagAck|header.TCPFlagRst) != header.TCPFlagSyn {
		return false
	}
	if h := s.acceptingFor(tupleOfID(id)); h != nil && !h.taken && s.plain {
		s.handshakes.Add(1)
		if h.taken = s.forwarder.HandlePacket(id, pkt); !h.taken {
			s.handshakes.Done()
		}
	}
	return true
}

// completeHandshake is the forwarder's handler, on a goroutine of its own.
func (s *Stack) completeHandshake(r *tcp.ForwarderRequest) {
	defer s.handshakes.Done()
	id := r.ID()
	h := s.acceptingFor(tupleOfID(id))
	var ep tcpip.Endpoint
	var err tcpip.Error = &tcpip.ErrAborted{}
	if !h.aborted.Load() {
		ep, err = r.CreateEndpoint(h.wq)
	}
	close(h.finished)
	r.Complete(false)
	var conn *Conn
	if err == nil {
		conn = &Conn{s: s, ep: ep.(*tcp.Endpoint), wq: h.wq, id: id}
	}
	if !s.shard.Post(handshakeDone{h, conn, toErrno(err)}) && conn != nil {
		conn.ep.Abort()
	}
}

type handshakeDone struct {
	h     *Handshake
	conn  *Conn
	errno unix.Errno
}

func (d handshakeDone) Run() { d.h.s.finishHandshake(d.h, d.conn, d.errno) }

func (s *Stack) finishHandshake(h *Handshake, c *Conn, errno unix.Errno) {
	s.setAccepting(h.key, nil)
	if c != nil && h.aborted.Load() {
		c.ep.Abort()
		c, errno = nil, unix.ECONNABORTED
	}
	if c != nil {
		s.conns[c.key()] = c
		c.register()
		if !s.plain {
			c.leaveDemuxer()
		}
	}
	h.done(c, errno)
}

func (s *Stack) acceptingFor(key Tuple) *Handshake {
	s.acceptMu.Lock()
	defer s.acceptMu.Unlock()
	return s.accepting[key]
}

func (s *Stack) setAccepting(key Tuple, h *Handshake) {
	s.acceptMu.Lock()
	defer s.acceptMu.Unlock()
	if h == nil {
		delete(s.accepting, key)
	} else {
		s.accepting[key] = h
	}
}
