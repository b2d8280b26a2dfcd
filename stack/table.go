package stack

import "gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

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
	// Nothing more is received, and only the bytes in the send buffer count.
	c.keep(s.unacknowledged(c.ep) + c.overhead.bytes() - minShare)
	if s.orphans.Len() > maxOrphans {
		s.in.stats.Orphans++
		s.resetOrphan(s.orphans.Front().Value.(*Conn))
	}
}

func (s *Stack) resetOrphan(c *Conn) {
	s.finishBatch()
	c.ep.Abort()
	s.forget(c)
}

// forget removes a connection that gVisor has released from the tables.
func (s *Stack) forget(c *Conn) {
	c.unregister()
	c.unclaim()
	c.keep(0)
	if key := c.key(); s.conns[key] == c {
		s.releaseLater()
		delete(s.conns, key)
	}
	if c.place != nil {
		s.orphans.Remove(c.place)
		c.place = nil
	}
}

// ended reports whether nothing that the guest sends can concern c any more, though it
// may still be in the tables.
func (c *Conn) ended() bool {
	switch c.ep.EndpointState() {
	case tcp.StateClose, tcp.StateError: // reset, but Run has not been told
		return true
	}
	return c.closed
}

// key is c's in Stack.conns.
func (c *Conn) key() Tuple { return tupleOfAddrs(c.RemoteAddr(), c.LocalAddr()) }
