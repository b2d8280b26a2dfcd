package stack

import "gvisor.dev/gvisor/pkg/buffer"

// gVisor clears each buffer that it takes out of its pool. For one of 64 kB, which
// the next frame is read over, that was a fourteenth of the time of a stream out
// (perf record during make bench ROWS=tcp-out-4-65520). So the receiver keeps
// some buffers of its own: it hands out references, and reuses a buffer when
// nothing else refers to it.

// tailCount buffers are twice what a batch fills (batchBytes): one batch is read
// while flows pass on the one before.
const tailCount = 2 * batchBytes / tailSize

// tailPool holds the receiver's buffers. It belongs to the shard's thread; what is
// handed out may be let go of by any goroutine.
type tailPool [tailCount]*buffer.View

// next returns a view of tailSize bytes or more, which are not cleared, or nil when all are
// in use because a reader is slow. The first free one is the most likely to be in the
// processor's cache.
func (t *tailPool) next() *buffer.View {
	for i, v := range t {
		if v == nil {
			// Too large for gVisor's pool, so gVisor does not clear it: what no frame
			// has filled takes no memory.
			v = buffer.NewViewSize(buffer.MaxChunkSize + 1)
			t[i] = v
		} else if sharesChunk(v) {
			continue
		}
		return v.Clone()
	}
	return nil
}

// nextTail provides the view that the next frame's tail is read into.
func (r *receiver) nextTail() {
	if r.tail != nil && r.pooled {
		return
	}
	if v := r.tails.next(); v != nil {
		if r.tail != nil {
			r.tail.Release()
		}
		r.tail, r.pooled = v, true
	} else if r.tail == nil {
		r.tail = buffer.NewViewSize(tailSize)
	}
}

// takeTail takes the first size bytes of the tail out of the receiver. While all
// buffers of the pool are held, this one may be held for long, too: unless it is half
// full, its bytes are copied, since a receive buffer counts the bytes of its segments,
// not the memory that holds them.
func (r *receiver) takeTail(size int) *buffer.View {
	v := r.tail
	if !r.pooled && size <= tailSize/2 {
		v = buffer.NewViewSize(size)
		copy(v.AsSlice(), r.tail.AsSlice())
		return v
	}
	v.CapLength(size)
	r.tail, r.pooled = nil, false
	return v
}
