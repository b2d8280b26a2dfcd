package stack

import "sync/atomic"

// Stats count frames since the start; bytes are from the Ethernet header on.
type Stats struct {
	FromFrames, FromBytes uint64 // from the guest
	ToFrames, ToBytes     uint64 // to the guest
	// Dropped of those from the guest:
	Malformed uint64 // with impossible lengths or checksums
	Martian   uint64 // with an impossible source or destination (RFC 1812 section 5.3.7)
	// Refused were not taken by the device, which was down or full.
	Refused uint64
	// At a limit, connections that the caller had closed were reset, and guests behind
	// other Ethernet addresses than the TAP's were forgotten:
	Orphans   uint64 // too many waited for the guest
	Buffers   uint64 // others needed their buffers
	Neighbors uint64 // times that all were forgotten
}

// Add adds the numbers of another stack.
func (s *Stats) Add(o Stats) {
	s.FromFrames += o.FromFrames
	s.FromBytes += o.FromBytes
	s.ToFrames += o.ToFrames
	s.ToBytes += o.ToBytes
	s.Malformed += o.Malformed
	s.Martian += o.Martian
	s.Refused += o.Refused
	s.Orphans += o.Orphans
	s.Buffers += o.Buffers
	s.Neighbors += o.Neighbors
}

// written counts frames to the guest, which any goroutine may write.
type written struct{ frames, bytes, refused atomic.Uint64 }

// count notes what the device made of a frame of n bytes.
func (w *written) count(n int, refused bool) {
	if refused {
		w.refused.Add(1)
		return
	}
	w.frames.Add(1)
	w.bytes.Add(uint64(n))
}

// Stats must be called on the shard's thread.
func (s *Stack) Stats() Stats {
	all := s.in.stats
	w := &s.link.written
	all.ToFrames, all.ToBytes, all.Refused = w.frames.Load(), w.bytes.Load(), w.refused.Load()
	all.Neighbors = s.neigh.forgotten.Load()
	return all
}
