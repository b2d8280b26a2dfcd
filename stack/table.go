package stack

import (
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/ports"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// maxOrphans bounds the connections that are closed on our side and wait for
// the guest: to acknowledge the last bytes, to send its FIN, or in TIME-WAIT.
// Linux calls the same limit tcp_max_orphans and resets what is beyond it. At
// the second that TIME-WAIT lasts, 4096 is more connections per second than
// one shard opens.
const maxOrphans = 4096

// orphan notes a connection that the caller has closed, and resets the one
// that has waited longest when there are too many.
func (s *Stack) orphan(c *Conn) {
	if s.conns[c.key()] != c {
		return
	}
	c.place = s.orphans.PushBack(c)
	if s.orphans.Len() > maxOrphans {
		oldest := s.orphans.Front().Value.(*Conn)
		oldest.ep.Abort()
		s.forget(oldest)
	}
}

// forget takes a connection that gVisor has let go of out of the tables.
func (s *Stack) forget(c *Conn) {
	c.unregister()
	c.unclaim()
	if key := c.key(); s.conns[key] == c {
		s.fewer()
		delete(s.conns, key)
	}
	if c.place != nil {
		s.orphans.Remove(c.place)
		c.place = nil
	}
}

// key is c's in Stack.conns.
func (c *Conn) key() Tuple { return tupleOfID(c.id) }

// leaveDemuxer takes an established connection out of gVisor's table of
// endpoints, which spends half a kilobyte on each, a twelfth of what an idle
// connection needs. Stack.conns finds it for its segments, in handleTCP for those
// that came in fragments, and in withDemuxer for ICMP errors.
func (c *Conn) leaveDemuxer() {
	c.undemuxed = true
	c.s.gv.UnregisterTransportEndpoint([]tcpip.NetworkProtocolNumber{c.ep.NetProto}, tcp.ProtocolNumber, c.id, c.ep, ports.Flags{}, 0)
}

// withDemuxer calls f with the connection that the ICMP error p is about, if it
// is one of ours, back in gVisor's table.
func (s *Stack) withDemuxer(p *Packet, f func()) {
	if c := s.conns[p.quotedTCP()]; c != nil && c.undemuxed {
		err := s.gv.RegisterTransportEndpoint([]tcpip.NetworkProtocolNumber{c.ep.NetProto}, tcp.ProtocolNumber, c.id, c.ep, ports.Flags{}, 0)
		if err == nil {
			defer c.leaveDemuxer()
		}
	}
	f()
}
