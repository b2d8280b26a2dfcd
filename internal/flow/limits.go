package flow

import "golang.org/x/sys/unix"

// Limits bound what one guest can make the host hold. Zero means the default.
type Limits struct {
	// Dials is the number of connects and handshakes under way, at most. At
	// 4096, a scan of a silent /20 fits.
	Dials int
	// TCP is the number of the guest's connections, dials included. Default:
	// what descriptors leave, at most 65536.
	TCP int
	// Mappings is the number of UDP and echo mappings. 4096 is what a busy
	// resolver in the guest opens in 10 s at 400 queries/s from fresh ports,
	// the time after which those expire.
	Mappings int
	// Clients is the number of TCP clients of published ports that wait for the
	// guest; further ones wait in the listeners' queues. Default 4096.
	Clients int
	// Sessions is the number of clients of published UDP ports that are
	// remembered, at about 500 bytes each. Default 16384.
	Sessions int
	// Exposed is the number of connections by exposed ports, which hold two
	// descriptors each: together a quarter of the limit at most. Default 4096.
	Exposed int
}

// reservedFDs are kept for what is no flow: the shard, the device, the resolver,
// listeners.
const reservedFDs = 128

// Divided is each one's share if n tables are to stay within the limits together.
func (l Limits) Divided(n int) Limits {
	l = l.withDefaults()
	share := func(v int) int { return max(1, v/n) }
	l.Dials, l.TCP, l.Mappings = share(l.Dials), share(l.TCP), share(l.Mappings)
	return l
}

// withDefaults fills in zero limits, within the descriptor limit of the
// process: half of it for connections, a quarter each for dials and mappings.
func (l Limits) withDefaults() Limits {
	open := 1 << 20
	var r unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &r); err == nil && r.Cur < uint64(open) {
		open = int(r.Cur)
	}
	fds := max(open-reservedFDs, 16)
	def := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	def(&l.Dials, min(4096, fds/4))
	def(&l.Mappings, min(4096, fds/4))
	def(&l.TCP, min(1<<16, fds-l.Dials-l.Mappings))
	def(&l.Clients, 4096)
	def(&l.Sessions, 16384)
	def(&l.Exposed, max(1, min(4096, open/8)))
	return l
}
