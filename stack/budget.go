package stack

// DefaultBufferBytes bounds the TCP buffers of all connections together, beyond
// the minimum that each one has.
const DefaultBufferBytes = 512 << 20

// Buffers of one connection, each way, in bytes. The minimum keeps thousands
// of connections going with 64 kB in flight each; the maximum is where gVisor's
// own tuning ends.
const (
	minShare = 64 << 10
	maxShare = maxBuffer
	// budgetShare: each connection may take a sixteenth of what is left, so
	// that the first is not starved by the thousandth nor the reverse.
	budgetShare = 16
)

// budget shares a number of bytes out among connections. What a connection gets
// beyond the minimum comes off the budget until gVisor has let go of it: one that
// is closed for everybody else may still hold a full send queue.
type budget struct{ free int }

// share is the buffer size, each way, that a new connection would get.
func (b *budget) share() int {
	return min(maxShare, max(minShare, b.free/(2*budgetShare)))
}

// take reserves a share and returns its size, each way.
func (b *budget) take() int {
	n := b.share()
	b.free -= 2 * (n - minShare)
	return n
}

// reserve sizes the buffers of a new connection. When only the minimum is left, the
// connections that the caller has closed, and whose guest does not take what was
// written, are reset first.
func (s *Stack) reserve(c *Conn) {
	for e := s.orphans.Front(); e != nil && s.budget.share() == minShare; {
		orphan := e.Value.(*Conn)
		e = e.Next()
		if orphan.reserved > 0 {
			s.in.stats.Buffers++
			s.resetOrphan(orphan)
		}
	}
	c.buffers = s.budget.take()
	c.reserved = 2 * (c.buffers - minShare)
	if c.buffers < maxShare {
		options := c.ep.SocketOptions()
		options.SetReceiveBufferSize(int64(c.buffers), true)
		options.SetSendBufferSize(int64(c.buffers), true)
	}
}

// keep gives the budget back all but n bytes of c's reservation.
func (c *Conn) keep(n int) {
	n = max(0, min(n, c.reserved))
	c.s.budget.free += c.reserved - n
	c.reserved = n
}
