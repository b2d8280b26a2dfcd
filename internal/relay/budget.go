package relay

// DefaultBufferBytes bounds the TCP buffers of all flows of a guest together,
// beyond the minimum that each one has.
const DefaultBufferBytes = 512 << 20

// Buffers of one connection, each way, in bytes. The minimum keeps thousands
// of connections going with 64 kB in flight each; the maximum is where gVisor's
// own tuning ends.
const (
	minBuffers = 64 << 10
	maxBuffers = 4 << 20
	// budgetShare: each connection may take a sixteenth of what is left, so
	// that the first is not starved by the thousandth nor the reverse.
	budgetShare = 16
)

// budget shares a number of bytes out among connections. What a connection gets
// beyond the minimum comes off the budget until it closes.
type budget struct{ free int }

// take returns the buffer size, each way, for a new connection.
func (b *budget) take() int {
	n := min(maxBuffers, max(minBuffers, b.free/(2*budgetShare)))
	b.free -= 2 * (n - minBuffers)
	return n
}

func (b *budget) give(n int) { b.free += 2 * (n - minBuffers) }
