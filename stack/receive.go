package stack

import (
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	gvisor "gvisor.dev/gvisor/pkg/tcpip/stack"

	"epiphyte/internal/sockio"
)

const (
	// headSize is the part of a frame that is read into a view of its own, so
	// that an MTU-sized segment does not pin 64 kB. What fits into half of it is
	// copied, so that it does not pin that either.
	headSize = 2048
	// tailSize holds the rest of the largest frame, an IP packet of 65535 bytes.
	tailSize = 65536
	// batchMax frames, or batchBytes, are read before flows get their turn. It
	// bounds what is saved by batches (acknowledgements, system calls for
	// datagrams) against the time flows wait.
	batchMax   = 32
	batchBytes = 512 << 10
	// growAfter full batches in a row make the next one larger. Reading on
	// after a single frame costs a system call that says EAGAIN; in a request
	// and reply exchange, where a second frame is never there, that is one in
	// six of all calls.
	growAfter = 4
)

// receiver reads the device in batches. It belongs to the shard's thread.
type receiver struct {
	limit  int // frames to read before asking the poller again
	filled int // batches in a row that reached the limit

	hdr    virtioHdr
	eth    [header.EthernetMinimumSize]byte
	heads  [batchMax]*buffer.View
	tails  tailPool
	tail   *buffer.View // the one that is read into
	pooled bool         // it is one of tails
	iov    [4]unix.Iovec
	pkt    Packet
	syn    SYN // the one that the Handler is given: most of a flood are refused
	// checked: the guest's kernel vouches for pkt's transport checksum.
	checked bool

	inline []*Conn // locked in this batch
	stats  Stats   // of frames from the guest
}

// Ready reads one batch. The device is watched level-triggered: what is left
// waiting is reported again, after the flows had their turn.
func (s *Stack) Ready(events uint32) {
	r := &s.in
	if r.limit == 0 {
		r.limit = 1
	}
	n, bytes := 0, 0
	for n < r.limit && bytes < batchBytes {
		size, errno := r.read(s.dev, n)
		if errno == unix.EAGAIN {
			break
		}
		if errno != 0 && errno != unix.EINTR {
			s.deviceFailed(errno)
			break
		}
		if errno == 0 {
			s.receive(r, n, size)
		}
		bytes += max(0, size)
		n++
	}
	s.finishBatch()
	s.handler.Flush()
	if n < r.limit && bytes < batchBytes {
		r.limit, r.filled = max(1, n), 0
	} else if r.filled++; r.filled >= growAfter {
		r.limit, r.filled = min(2*r.limit, batchMax), 0
	}
}

// deviceFailed ends Serve if the device is gone.
func (s *Stack) deviceFailed(errno unix.Errno) {
	if DeviceGone(errno) {
		s.fail(ErrDeviceGone)
	}
}

// read reads one frame into head i and returns the size of what follows the
// Ethernet header, negative if not even that was whole.
func (r *receiver) read(dev Device, i int) (int, unix.Errno) {
	if r.heads[i] == nil {
		r.heads[i] = buffer.NewViewSize(headSize)
	}
	r.nextTail()
	iov := r.iov[:0]
	prefix := header.EthernetMinimumSize
	if dev.VNetHdr() {
		iov = append(iov, r.hdr.vec())
		prefix += header.VirtioNetHeaderSize
	}
	iov = append(iov, sockio.Vec(r.eth[:]), sockio.Vec(r.heads[i].AsSlice()), sockio.Vec(r.tail.AsSlice()))
	n, errno := dev.Readv(iov)
	if n == 0 && errno == 0 {
		errno = unix.EBADFD // the far end of a socket that stands for a TAP has closed
	}
	return n - prefix, errno
}

// receive sorts one frame.
func (s *Stack) receive(r *receiver, i, size int) {
	r.stats.FromFrames++
	r.stats.FromBytes += uint64(max(0, size+header.EthernetMinimumSize))
	if size <= 0 || size > headSize+tailSize {
		r.stats.Malformed++
		return
	}
	head := r.heads[i].AsSlice()
	var tail []byte
	if size <= headSize {
		head = head[:size]
	} else {
		tail = r.tail.AsSlice()[:size-headSize]
	}
	p := &r.pkt
	*p = Packet{Fresh: true}
	proto := header.Ethernet(r.eth[:]).Type()
	if proto == header.ARPProtocolNumber {
		s.handleARP(head)
		return
	}
	if proto == header.IPv6ProtocolNumber && !s.plan.IPv6() || proto == header.IPv4ProtocolNumber && !s.plan.IPv4() {
		return
	}
	if !p.Parse(proto, head, tail) || !p.validHeader() {
		r.stats.Malformed++
		return
	}
	if s.martian(p) {
		r.stats.Martian++
		return
	}
	var ok bool
	if r.checked, ok = r.hdr.offloads(p); !ok {
		r.stats.Malformed++
		return
	}
	s.neigh.learn(p.Src, [6]byte(r.eth[6:12]))
	switch {
	case p.Fragment.Present:
		s.finishBatch()
		s.deliver(r, i, size, proto)
	case p.Proto == ProtoTCP:
		if !p.validTransport(true) {
			r.stats.Malformed++
			return
		}
		s.receiveTCP(r, p, i, size, proto)
	case p.validTransport(r.checked):
		s.dispatch(p, func() { s.deliver(r, i, size, proto) })
	default:
		r.stats.Malformed++
	}
}

// martian reports whether p has a source that no packet can have (RFC 1812
// section 5.3.7), or one that would make us talk to ourselves, or is for a loopback
// address, which gVisor would log. Other destinations that a host socket must not see
// are the forwarder's to refuse.
func (s *Stack) martian(p *Packet) bool {
	src := p.Src
	if p.Dst.IsLoopback() {
		return true
	}
	if src.IsUnspecified() { // only in DHCP and duplicate address detection
		return !(p.Proto == ProtoUDP && src.Is4() || p.Proto == ProtoICMPv6 && !p.Fragment.Present)
	}
	return src.IsLoopback() || src.IsMulticast() || src.Is4In6() || src == LimitedBroadcast() || s.plan.IsOwn(src)
}

// dispatch handles a UDP or ICMP packet or hands it on. asError passes an ICMP error
// about one of our TCP connections to gVisor; it is nil if gVisor has seen it.
func (s *Stack) dispatch(p *Packet, asError func()) {
	own := s.plan.IsOwn(p.Dst)
	switch {
	case p.Proto == ProtoICMPv6 && s.handleNDP(p):
	case p.Proto == ProtoICMPv6 && p.Src.IsUnspecified():
		// A guest without an address has no use for an answer.
	case p.Proto != ProtoUDP && own && p.IsEchoRequest():
		s.answerEcho(p)
	case p.Proto != ProtoUDP && p.quotesTCP():
		if asError != nil {
			s.finishBatch()
			asError()
		}
	case p.TTL <= 1 && !own && !p.Dst.IsMulticast() && p.Dst != LimitedBroadcast():
		if p.isError() {
			return
		}
		s.sendTimeExceeded(p)
	case p.Proto == ProtoUDP:
		s.handler.UDP(p)
	default:
		s.handler.ICMP(p)
	}
}

// receiveTCP takes a segment of a known connection inline, an opening SYN to
// the handler and anything else to gVisor.
func (s *Stack) receiveTCP(r *receiver, p *Packet, i, size int, proto tcpip.NetworkProtocolNumber) {
	key := tupleOf(p)
	c := s.conns[key]
	if opens(header.TCP(p.Head).Flags()) {
		s.finishBatch()            // c's reset may wait there
		if c == nil || c.ended() { // the guest may use the ports of an ended one again
			s.openingSYN(p, key, r.checked)
			return
		}
	}
	if c != nil && c.frozen {
		if c.strayed != nil {
			c.strayed()
		}
		return
	}
	if c != nil {
		s.lockForBatch(c)
		s.queue(c, s.segment(p, r.take(i, size), r.checked))
		return
	}
	if h := s.accepting[key]; h != nil {
		h.step(s.segment(p, r.take(i, size), r.checked))
		return
	}
	s.deliver(r, i, size, proto)
}

// openingSYN hands a request for a connection to the Handler. The batch must have been
// finished.
func (s *Stack) openingSYN(p *Packet, key Tuple, checked bool) {
	if !checked && !p.checksumOK() {
		return
	}
	if p.TTL <= 1 && !s.plan.IsOwn(p.Dst) {
		s.sendTimeExceeded(p)
		return
	}
	if s.accepting[key] != nil {
		return // a retransmission; the SYN-ACK is on its way
	}
	s.in.syn.set(p, key)
	s.handler.SYN(&s.in.syn)
}

// take takes the frame's packet out of the receiver, together with the views
// that hold it unless it is small; the next frame is read into new ones.
func (r *receiver) take(i, size int) (packet buffer.Buffer) {
	head := r.heads[i]
	if size <= headSize/2 { // an acknowledgement, or a small segment that may wait for long
		packet.Append(buffer.NewViewWithData(head.AsSlice()[:size]))
		return packet
	}
	r.heads[i] = nil
	if size <= headSize {
		head.CapLength(size)
		packet.Append(head)
	} else {
		packet.Append(head)
		packet.Append(r.takeTail(size - headSize))
	}
	return packet
}

// deliver hands the frame's packet to gVisor's IP layer.
func (s *Stack) deliver(r *receiver, i, size int, proto tcpip.NetworkProtocolNumber) {
	pkt := gvisor.NewPacketBuffer(gvisor.PacketBufferOptions{Payload: r.take(i, size)})
	pkt.NetworkProtocolNumber = proto
	pkt.RXChecksumValidated = s.link.offload && r.checked
	s.link.disp.DeliverNetworkPacket(proto, pkt)
	pkt.DecRef()
}

// segment makes of a TCP packet what gVisor's IP layer would. Its headers have been
// checked, and its connection is known.
func (s *Stack) segment(p *Packet, packet buffer.Buffer, checked bool) *gvisor.PacketBuffer {
	pkt := gvisor.NewPacketBuffer(gvisor.PacketBufferOptions{Payload: packet})
	pkt.NICID = nicID
	pkt.NetworkProtocolNumber = protocolOf(p.Src)
	pkt.TransportProtocolNumber = header.TCPProtocolNumber
	pkt.RXChecksumValidated = checked && s.link.offload
	pkt.Data().CapLength(len(p.ip) + len(p.Tail)) // without Ethernet's padding
	pkt.NetworkHeader().Consume(p.HeaderLen())
	pkt.TransportHeader().Consume(int(header.TCP(p.Head).DataOffset()))
	return pkt
}
