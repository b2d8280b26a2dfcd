package stack

import (
	"encoding/binary"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// SendBroadcastUDP sends a datagram to the guest's limited broadcast address.
func (s *Stack) SendBroadcastUDP(src netip.AddrPort, port uint16, payload []byte) {
	s.SendUDP(src, netip.AddrPortFrom(LimitedBroadcast(), port), payload)
}

// SendICMP sends an ICMP or ICMPv6 message, whose checksum is filled in.
func (s *Stack) SendICMP(src, dst netip.Addr, ttl uint8, message ...[]byte) {
	o := outgoing{src: src, dst: dst, proto: ProtoICMP, ttl: ttl, transport: message[0], sumAt: header.ICMPv6ChecksumOffset} // of either family
	if src.Is6() {
		o.proto = ProtoICMPv6
	}
	s.out.parts = append(s.out.parts[:0], message[1:]...)
	o.payload = s.out.parts
	binary.BigEndian.PutUint16(message[0][o.sumAt:], 0)
	s.out.send(&o)
}

// SendReset refuses the connection that a SYN asks for (RFC 9293, section
// 3.10.7.1: a reset that acknowledges what the SYN occupies).
func (s *Stack) SendReset(syn *SYN) {
	s.sendReset(syn.Dst, syn.Src, header.TCPFlagRst|header.TCPFlagAck, syn.next)
}

// SendAbort tells connection tracking between us and a server in the guest that an
// attempt to connect to it, not made by Dial, has ended. It is a RST of sequence
// number zero, which Linux's tracking takes for the end of any attempt
// (tcp_in_window in nf_conntrack_proto_tcp.c) and hosts ignore.
func (s *Stack) SendAbort(from, to netip.AddrPort) {
	s.sendReset(from, to, header.TCPFlagRst, 0)
}

func (s *Stack) sendReset(src, dst netip.AddrPort, flags header.TCPFlags, ack uint32) {
	h := header.TCP(s.out.told[:header.TCPMinimumSize])
	h.Encode(&header.TCPFields{
		SrcPort: src.Port(), DstPort: dst.Port(), AckNum: ack, DataOffset: header.TCPMinimumSize, Flags: flags,
	})
	s.out.send(&outgoing{src: src.Addr(), dst: dst.Addr(), proto: ProtoTCP, ttl: DefaultTTL, transport: h, sumAt: header.TCPChecksumOffset})
}

// LimitedBroadcast is the address 255.255.255.255 (RFC 919).
func LimitedBroadcast() netip.Addr { return netip.AddrFrom4([4]byte{255, 255, 255, 255}) }

// answerEcho replies to an echo request for one of our own addresses, with a TTL of
// 255, as slirp4netns does.
func (s *Stack) answerEcho(p *Packet) {
	s.echo = append(s.echo[:0], p.Head...)
	reply := s.echo
	if p.Proto == ProtoICMP {
		header.ICMPv4(reply).SetType(header.ICMPv4EchoReply)
	} else {
		header.ICMPv6(reply).SetType(header.ICMPv6EchoReply)
	}
	s.SendICMP(p.Dst, p.Src, 255, reply, p.Tail)
}
