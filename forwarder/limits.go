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
}

// reservedFDs are kept for what is neither flow nor mapping: the shard, the
// device, the resolver, listeners.
const reservedFDs = 128

// Divided is each one's share if n forwarders are to stay within the limits
// together.
func (l Limits) Divided(n int) Limits {
	l = l.withDefaults()
	share := func(v int) int { return max(1, v/n) }
	return Limits{Dials: share(l.Dials), TCP: share(l.TCP), Mappings: share(l.Mappings)}
}

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
	return l
}
