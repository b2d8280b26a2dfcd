package stack

import (
	"net/netip"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// Dialing is a connection towards the guest that is not established yet.
type Dialing struct {
	conn *Conn
	done func(*Conn, unix.Errno)
}

// Dial connects to a server in the guest, as if from the given address, which
// may be any. done is called once, on the shard's thread and not before
// Dial returns, with the connection or with the reason why there is none:
// ECONNREFUSED, an unreachable errno, ETIMEDOUT after gVisor's patience of two
// minutes, or ECONNABORTED after Abort. An error of Dial itself, such as
// EADDRINUSE for a connection that exists, comes back at once.
func (s *Stack) Dial(from, to netip.AddrPort, done func(*Conn, unix.Errno)) (*Dialing, unix.Errno) {
	s.finishBatch()
	proto := header.IPv4ProtocolNumber
	if to.Addr().Is6() {
		proto = header.IPv6ProtocolNumber
	}
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
	if s.conns[tupleOfAddrs(to, from)] != nil {
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
	d := &Dialing{conn: c, done: done}
	c.claimed, c.notify = s.claims != nil, d.moved
	c.register()
	return d, 0
}

// moved looks at what the handshake has come to.
func (d *Dialing) moved(Readiness) {
	c := d.conn
	st := c.ep.EndpointState()
	if d.done == nil || st == tcp.StateSynSent || st == tcp.StateSynRecv || st == tcp.StateConnecting {
		return
	}
	done := d.done
	d.done = nil
	c.notify = nil
	if st == tcp.StateError || st == tcp.StateClose {
		errno := toErrno(c.ep.LastError())
		if errno == 0 {
			errno = unix.ECONNRESET
		}
		c.discard()
		done(nil, errno)
		return
	}
	c.s.conns[c.key()] = c
	done(c, 0)
}

// Abort gives the connection up. done is called with ECONNABORTED, before
// Abort returns, unless it was called already.
func (d *Dialing) Abort() {
	if d.done == nil {
		return
	}
	done := d.done
	d.done = nil
	d.conn.notify = nil
	d.conn.ep.Abort()
	d.conn.discard()
	done(nil, unix.ECONNABORTED)
}

// unclaim lets go of what Dial has claimed, if c was dialled.
func (c *Conn) unclaim() {
	if c.claimed {
		c.claimed = false
		c.s.claims.Release(ProtoTCP, c.RemoteAddr(), c.LocalAddr())
	}
}

// GuestAddr6 is the guest's own IPv6 address: the one it was last seen to use
// from the plan's prefix, or before that the one which SLAAC makes of its
// Ethernet address (RFC 4291 appendix A). Shard's thread only.
func (s *Stack) GuestAddr6() netip.Addr {
	if s.guest6.IsValid() || !s.plan.IPv6() {
		return s.guest6
	}
	mac := unpack(s.neigh.self.Load())
	b := s.plan.Prefix6.Addr().As16()
	copy(b[8:], []byte{mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]})
	return netip.AddrFrom16(b)
}
