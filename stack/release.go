package stack

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"

	"epiphyte/internal/shard"
)

// The runtime keeps freed memory for later use, for two minutes at least. A helper
// lives as long as its container, and carries most of its connections in bursts: when
// one is over, its memory goes back to the system.

const (
	// releaseConns is how many connections fewer than before are worth it: 5 kB
	// each, so 2 to 3 MB.
	releaseConns = 512
	// releaseBytes is how much more memory than after the last time is worth it,
	// however many connections it was for.
	releaseBytes = 16 << 20
	// releaseDelay leaves time for the next burst to use the memory again, and
	// for TIME-WAIT, and bounds the cost: two collections and the system calls
	// take some milliseconds of another thread's time.
	releaseDelay = 5 * time.Second
)

// releaseLater is called before a connection leaves the table.
func (s *Stack) releaseLater() {
	s.mostConns = max(s.mostConns, len(s.conns))
	if !s.shard.Armed(&s.releaseTimer) {
		s.shard.Arm(&s.releaseTimer, releaseDelay, shard.TaskFunc(s.release))
	}
}

func (s *Stack) release() {
	if s.mostConns-len(s.conns) < releaseConns && resident() < s.resident.Load()+releaseBytes {
		return
	}
	s.mostConns = len(s.conns)
	s.releases.Go(func() {
		// gVisor's pools release their contents at the second collection, among
		// them segments that refer to their connection.
		runtime.GC()
		debug.FreeOSMemory()
		s.resident.Store(resident())
	})
}

// resident is the number of bytes of the heap that the system has not got back.
func resident() (n uint64) {
	samples := []metrics.Sample{
		{Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/memory/classes/heap/unused:bytes"},
		{Name: "/memory/classes/heap/free:bytes"},
	}
	metrics.Read(samples)
	for _, s := range samples {
		n += s.Value.Uint64()
	}
	return n
}
