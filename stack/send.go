package stack

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"epiphyte/internal/sockio"
)

// DefaultTTL is the TTL of packets that we originate (RFC 1700).
const DefaultTTL = 64

// outgoing describes one IP packet of our own making. Its transport header
// has a zero checksum, at sumAt.
type outgoing struct {
	src, dst  netip.Addr
	proto     uint8
	ttl       uint8
	transport []byte
	sumAt     int
	payload   [][]byte
	gso       virtioHdr // gsoType and gsoSize of a super-datagram, else zero
}

// sender writes packets of our own making to the device. It belongs to the
// shard's thread: one header buffer serves all of them, so that a packet costs
// one system call and no allocation.
type sender struct {
	dev   Device
	count *written
	vnet  bool
	csum  bool // the guest's kernel completes checksums
	uso   bool // and cuts super-datagrams
	mtu   int
	mac   [6]byte
	neigh *neighbors
	id    uint16 // IPv4 identification, of fragments foremost
	step  uint16 // between ids, a power of two: other stacks have those in between

	hdr  virtioHdr
	udp  [header.UDPMinimumSize]byte
	told [header.ICMPv6ErrorHeaderSize + header.IPv6MinimumSize + quoted]byte // an error, or a reset
	head [header.EthernetMinimumSize + header.IPv6MinimumSize + header.IPv6FragmentHeaderSize + 64]byte
	iov  []unix.Iovec

	// Of the packet being sent: a copy, so that a caller's list stays on its stack.
	parts [][]byte
}

// send writes the packet, cut into fragments when it exceeds the MTU. Packets
// that the device refuses are lost, as on any link.
func (s *sender) send(o *outgoing) {
	size := len(o.transport) + sizeOf(o.payload)
	ipLen := header.IPv4MinimumSize
	if o.src.Is6() {
		ipLen = header.IPv6MinimumSize
	}
	var pseudo uint16
	if o.proto != ProtoICMP {
		pseudo = pseudoHeader(o.src, o.dst, o.proto, size)
	}
	fits := ipLen+size <= s.mtu || o.gso.gsoType != 0
	// A partial checksum is for the kernel's own protocols only: raw sockets in
	// the guest (ping) would see an ICMP message without its sum.
	s.hdr = o.gso
	if fits && s.csum && o.proto == ProtoUDP {
		binary.BigEndian.PutUint16(o.transport[o.sumAt:], pseudo)
		s.hdr.flags = virtioNeedsCsum
		s.hdr.csumStart = uint16(header.EthernetMinimumSize + ipLen)
		s.hdr.csumOffset = uint16(o.sumAt)
	} else {
		var c checksum.Checksumer
		c.Add(o.transport)
		for _, p := range o.payload {
			c.Add(p)
		}
		sum := ^checksum.Combine(pseudo, c.Checksum())
		if sum == 0 && o.proto == ProtoUDP {
			sum = 0xffff // RFC 768: zero means none
		}
		binary.BigEndian.PutUint16(o.transport[o.sumAt:], sum)
	}
	s.id += s.step
	if fits {
		s.writeIP(o, ipLen, size, 0, false, o.transport, o.payload)
		return
	}
	s.fragment(o, ipLen, size)
}

// fragment cuts the transport packet into pieces of a multiple of eight bytes.
// It allocates: datagrams beyond the MTU are rare.
func (s *sender) fragment(o *outgoing, ipLen, size int) {
	if ipLen == header.IPv6MinimumSize {
		ipLen += header.IPv6FragmentHeaderSize
	}
	whole := make([]byte, 0, size)
	whole = append(whole, o.transport...)
	for _, p := range o.payload {
		whole = append(whole, p...)
	}
	piece := (s.mtu - ipLen) &^ 7
	for off := 0; off < size; off += piece {
		end := min(off+piece, size)
		s.writeIP(o, ipLen, end-off, off, end < size, whole[off:end], nil)
	}
}

// writeIP writes one IP packet or, if offset or more say so, one fragment.
func (s *sender) writeIP(o *outgoing, ipLen, size, offset int, more bool, first []byte, rest [][]byte) {
	putEthernet(s.head[:], s.mac, s.neigh.lookup(o.dst), protocolOf(o.src))
	ip := s.head[header.EthernetMinimumSize : header.EthernetMinimumSize+ipLen]
	if o.src.Is4() {
		f := header.IPv4Fields{ID: s.id, FragmentOffset: uint16(offset)}
		if more {
			f.Flags = header.IPv4FlagMoreFragments
		}
		putIPv4(ip, o.src, o.dst, o.proto, o.ttl, size, f)
	} else {
		var fragment header.IPv6ExtHdrSerializer
		if ipLen > header.IPv6MinimumSize {
			fragment = header.IPv6ExtHdrSerializer{&header.IPv6SerializableFragmentExtHdr{
				FragmentOffset: uint16(offset / 8), M: more, Identification: uint32(s.id),
			}}
		}
		putIPv6(ip, o.src, o.dst, o.proto, o.ttl, ipLen-header.IPv6MinimumSize+size, fragment)
	}
	s.write(s.head[:header.EthernetMinimumSize+ipLen], first, rest)
}

// write writes one frame made of a head and parts; the header in s.hdr goes
// first when the device wants one.
func (s *sender) write(head, first []byte, rest [][]byte) {
	iov := s.iov[:0]
	if s.vnet {
		s.hdr.hdrLen = uint16(len(head))
		iov = append(iov, s.hdr.vec())
	}
	iov = append(iov, sockio.Vec(head))
	if len(first) > 0 {
		iov = append(iov, sockio.Vec(first))
	}
	for _, p := range rest {
		if len(p) > 0 {
			iov = append(iov, sockio.Vec(p))
		}
	}
	_, errno := s.dev.Writev(iov)
	s.count.count(len(head)+len(first)+sizeOf(rest), errno != 0)
	clear(iov)
	s.iov = iov
}

func sizeOf(parts [][]byte) (n int) {
	for _, p := range parts {
		n += len(p)
	}
	return n
}
