package flow

import "golang.org/x/sys/unix"

// Limits bound what one guest can make the host hold. Zero means the default.
type Limits struct {
	// Descriptors are shared by all flows that hold some. Default: what the
	// process may have, less reservedFDs.
	Descriptors int
	// Dials is the number of connects and handshakes under way. With 4096, a
	// scan of a silent /20 fits. Default: 4096, at most half of the descriptors.
	Dials int
	// TCP is the number of the guest's connections, dials included. Default:
	// all descriptors but those guaranteed to mappings, at most 65536.
	TCP int
	// Mappings is the number of UDP and echo mappings. 4096 is what a busy
	// resolver in the guest opens in 10 s, after which they expire, at 400
	// queries/s from fresh ports. Default: 4096, at most half of the
	// descriptors.
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

// reservedFDs are kept for everything but flows: a helper at rest has some fifteen open,
// for the shard, the device, its poller and the standard streams; the others are for the
// resolver's sockets and clients of the control socket. If published ports take more,
// flows are evicted when the kernel refuses a descriptor (Table.FreeDescriptor).
const reservedFDs = 24

// sureMappings is how many mappings are guaranteed room beside connections.
func (l *Limits) sureMappings() int { return min(16, l.Descriptors/4) }

// Divided returns the limits of each of n tables that stay within l together.
func (l Limits) Divided(n int) Limits {
	l = l.withDefaults()
	share := func(v int) int { return max(1, v/n) }
	l.Descriptors, l.Dials, l.TCP, l.Mappings = share(l.Descriptors), share(l.Dials), share(l.TCP), share(l.Mappings)
	return l
}

// withDefaults fills in zero limits, within the descriptor limit of the process.
func (l Limits) withDefaults() Limits {
	open := 1 << 20
	var r unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &r); err == nil && r.Cur < uint64(open) {
		open = int(r.Cur)
	}
	def := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	def(&l.Descriptors, max(open-reservedFDs, 16))
	def(&l.Dials, min(4096, l.Descriptors/2))
	def(&l.Mappings, min(4096, l.Descriptors/2))
	def(&l.TCP, min(1<<16, l.Descriptors-l.sureMappings()))
	def(&l.Clients, 4096)
	def(&l.Sessions, 16384)
	def(&l.Exposed, max(1, min(4096, open/8)))
	return l
}
