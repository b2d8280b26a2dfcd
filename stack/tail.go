package stack

import "gvisor.dev/gvisor/pkg/buffer"

// gVisor clears each buffer that it takes out of its pool. For one of 64 kB, which
// the next frame is read over, that was a fourteenth of the time of a stream out
// (perf record during make bench ROWS=tcp-out-4-65520). So the receiver keeps
// some buffers of its own: it hands out references, and takes one again when
// nobody refers to it any more.

// tailCount buffers are twice what a batch fills (batchBytes): one batch is read
// while flows pass on the one before.
const tailCount = 2 * batchBytes / tailSize

// tailPool holds the receiver's buffers. It belongs to the shard's thread; what is
// handed out may be let go of by any goroutine.
type tailPool [tailCount]*buffer.View

// next returns a view of tailSize bytes, with whatever is in it. The first that
// is free is the one most likely to be in the processor's cache.
func (t *tailPool) next() *buffer.View {
	for i, v := range t {
		if v == nil {
			v = buffer.NewViewSize(tailSize)
			t[i] = v
		} else if sharesChunk(v) {
			continue
		}
		return v.Clone()
	}
	return buffer.NewViewSize(tailSize) // a reader is slow
}
