package stack

import (
	"net/netip"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// Dial connects to a server in the guest, as if from the given address, which
// may be any. done is called once, on the shard's thread and not before
// Dial returns, with the connection or with the reason why there is none:
// ECONNREFUSED, an unreachable errno, ETIMEDOUT after gVisor's patience of two
// minutes, or ECONNABORTED after Abort. An error of Dial itself, such as
// EADDRINUSE for a connection that exists, comes back at once.
func (s *Stack) Dial(from, to netip.AddrPort, done func(*Conn, unix.Errno)) (*Handshake, unix.Errno) {
	s.finishBatch()
	proto := protocolOf(to.Addr())
	c := &Conn{s: s}
	ep, err := s.gv.NewEndpoint(tcp.ProtocolNumber, proto, &c.wq)
	if err != nil {
		return nil, toErrno(err)
	}
	// One client port may talk to several ports of the guest.
	ep.SocketOptions().SetReusePort(true)
	if proto == header.IPv6ProtocolNumber {
		ep.SocketOptions().SetV6Only(true)
	}
	local := tcpip.FullAddress{NIC: nicID, Addr: address(from.Addr()), Port: from.Port()}
	if err := ep.Bind(local); err != nil {
		ep.Close()
		return nil, toErrno(err)
	}
	if from.Port() == 0 {
		bound, _ := ep.GetLocalAddress()
		from = netip.AddrPortFrom(from.Addr(), bound.Port)
	}
	key := tupleOfAddrs(to, from)
	if s.conns[key] != nil {
		ep.Close()
		return nil, unix.EADDRINUSE
	}
	c.ep = ep.(*tcp.Endpoint)
	if s.claims != nil { // before the SYN leaves, as the answer may come to another stack
		s.claims.Claim(ProtoTCP, to, from)
	}
	err = ep.Connect(tcpip.FullAddress{NIC: nicID, Addr: address(to.Addr()), Port: to.Port()})
	if _, started := err.(*tcpip.ErrConnectStarted); !started && err != nil {
		if s.claims != nil {
			s.claims.Release(ProtoTCP, to, from)
		}
		ep.Close()
		return nil, toErrno(err)
	}
	c.claimed = s.claims != nil
	h := &Handshake{key: key, conn: c, done: done}
	h.watch()
	return h, 0
}

// unclaim releases what Dial has claimed, if c was dialled.
func (c *Conn) unclaim() {
	if c.claimed {
		c.claimed = false
		c.s.claims.Release(ProtoTCP, c.RemoteAddr(), c.LocalAddr())
	}
}
