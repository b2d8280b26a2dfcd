package forwarder

import "golang.org/x/sys/unix"

// Limits bound what one guest can make the host hold.
type Limits struct {
	// Dials is the number of connects and handshakes under way, at most. At
	// 4096, a scan of a silent /20 fits; beyond it the oldest gives way.
	Dials int
	// TCP is the number of established connections.
	TCP int
	// Mappings is the number of UDP and echo mappings. 4096 is what a busy
	// resolver in the guest opens in 10 s at 400 queries/s from fresh ports,
	// the time after which those expire.
	Mappings int
	// BufferBytes bounds the TCP buffers of all connections together, beyond
	// a minimum that each one has.
	BufferBytes int
}

// reservedFDs are kept for what is neither flow nor mapping: the shard, the
// device, the resolver, listeners.
const reservedFDs = 128

// withDefaults fills in zero limits, within the descriptor limit of the
// process: half of it for connections, a quarter each for dials and mappings.
func (l Limits) withDefaults() Limits {
	fds := 1 << 20
	var r unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &r); err == nil && r.Cur < uint64(fds) {
		fds = int(r.Cur)
	}
	fds = max(fds-reservedFDs, 16)
	def := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	def(&l.Dials, min(4096, fds/4))
	def(&l.Mappings, min(4096, fds/4))
	def(&l.TCP, min(1<<16, fds-l.Dials-l.Mappings))
	def(&l.BufferBytes, 512<<20)
	return l
}

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

// budget shares BufferBytes out among connections. What a connection gets
// beyond the minimum comes off the budget until it closes.
type budget struct{ free int }

// take returns the buffer size, each way, for a new connection.
func (b *budget) take() int {
	n := min(maxBuffers, max(minBuffers, b.free/(2*budgetShare)))
	b.free -= 2 * (n - minBuffers)
	return n
}

func (b *budget) give(n int) { b.free += 2 * (n - minBuffers) }
