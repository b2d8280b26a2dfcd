package forwarder

import (
	"encoding/binary"
	"math/rand/v2"

	"golang.org/x/sys/unix"

	"epiphyte/internal/sockio"
	"epiphyte/stack"
)

// rawEcho is the raw socket by which all echo requests of a family leave where the
// kernel refuses us ping sockets but not raw ones: with CAP_NET_RAW in the user
// namespace that owns our network namespace (raw(7)). Mappings share it, each with an
// identifier of its own outside. It is open as long as there are any.
//
// The kernel hands it the echo replies, and queues on it the ICMP errors, of every
// program on the host: those whose identifier no mapping has are ignored.
type rawEcho struct {
	f        *Forwarder
	v6       bool
	socket   datagramSocket
	mappings map[uint16]*mapping // by rawID
	lastID   uint16
}

// raw is the place of the raw socket of a family.
func (f *Forwarder) raw(v6 bool) **rawEcho {
	if v6 {
		return &f.raw6
	}
	return &f.raw4
}

// openRawMapping adds an echo mapping to the raw socket of its family.
func (f *Forwarder) openRawMapping(m *mapping) unix.Errno {
	addr := m.record.Src.Addr()
	at := f.raw(addr.Is6())
	if *at == nil {
		e := &rawEcho{f: f, v6: addr.Is6(), mappings: make(map[uint16]*mapping), lastID: uint16(rand.Uint32())}
		if errno := e.socket.open(f, e, addr, unix.SOCK_RAW, int(m.record.Proto)); errno != 0 {
			return errno
		}
		e.filter()
		*at = e
	}
	return (*at).add(m)
}

// filter has the kernel drop everything but echo replies.
func (e *rawEcho) filter() {
	if !e.v6 {
		unix.SetsockoptInt(e.socket.FD, unix.SOL_RAW, unix.ICMP_FILTER, ^(1 << icmpEchoReply))
		return
	}
	var blocked unix.ICMPv6Filter
	for i := range blocked.Data {
		blocked.Data[i] = ^uint32(0)
	}
	blocked.Data[icmpv6EchoReply/32] &^= 1 << (icmpv6EchoReply % 32)
	unix.SetsockoptICMPv6Filter(e.socket.FD, unix.IPPROTO_ICMPV6, unix.ICMPV6_FILTER, &blocked)
}

// add gives a mapping the next identifier that is free.
func (e *rawEcho) add(m *mapping) unix.Errno {
	if len(e.mappings) > 0xffff {
		return unix.ENOBUFS
	}
	for e.lastID++; e.mappings[e.lastID] != nil; {
		e.lastID++
	}
	m.raw, m.rawID = e, e.lastID
	e.mappings[m.rawID] = m
	return 0
}

// remove removes a mapping, and with the last one closes the socket.
func (e *rawEcho) remove(m *mapping) {
	delete(e.mappings, m.rawID)
	if len(e.mappings) == 0 {
		e.socket.close()
		*e.f.raw(e.v6) = nil
	}
}

// find is the mapping that an echo message belongs to, nil if there is none.
func (e *rawEcho) find(message []byte) *mapping {
	if len(message) < 8 {
		return nil
	}
	return e.mappings[binary.BigEndian.Uint16(message[4:])]
}

// Received implements sockio.DatagramOwner.
func (e *rawEcho) Received(from *sockio.Addr, control []byte, _ int, parts [][]byte) {
	for _, p := range parts {
		if !e.v6 && len(p) > 0 {
			p = p[min(len(p), int(p[0]&0xf)*4):] // only raw sockets of IPv4 show the header
		}
		if m := e.find(p); m != nil {
			e.f.cfg.Table.Used(m.record)
			m.record.In += uint64(len(p))
			m.receiveEcho(from.AddrPort(), p, control)
		}
	}
}

// SendFailed implements sockio.DatagramOwner.
func (e *rawEcho) SendFailed(d *sockio.Datagram, errno unix.Errno) {
	if m := e.find(d.Payload[0]); m != nil {
		m.SendFailed(d, errno)
	}
}

// passError implements datagramOwner.
func (e *rawEcho) passError(q *sockio.QueuedError) {
	if m := e.find(q.Data); m != nil && isEchoRequestType(m.record.Proto, q.Data[0]) {
		m.passError(q)
	}
}

// setIdentifier changes the identifier of an echo message, and for IPv4 the checksum by
// the difference (RFC 1624, equation 3). For IPv6 the kernel fills it in.
func setIdentifier(p *stack.Packet, id uint16) {
	field := p.Head[4:6]
	if p.Proto == stack.ProtoICMP {
		sum := uint32(^binary.BigEndian.Uint16(p.Head[2:])) + uint32(^binary.BigEndian.Uint16(field)) + uint32(id)
		sum = sum>>16 + sum&0xffff
		binary.BigEndian.PutUint16(p.Head[2:], ^uint16(sum>>16+sum))
	}
	binary.BigEndian.PutUint16(field, id)
}
