package network

import (
	"time"

	"epiphyte/internal/bypass"
)

// take splices a connection that the network has handed over. Without a splicer it is reset.
func (h *Holder) take(p bypass.Pair, fds []int) {
	if h.splicer == nil {
		s, err := newSplicer(h.endedCarried)
		if err != nil {
			h.log.Warn("connections to neighbours cannot be carried", "error", err)
			closeAll(fds)
			h.endedCarried(p)
			return
		}
		h.splicer = s
	}
	h.splicer.take(p, [2]int(fds))
}

// hear does what the network's process has sent unasked.
func (h *Holder) hear(r *reply) {
	switch {
	case r.End != nil && h.splicer != nil:
		h.splicer.end(*r.End)
	case r.List:
		h.tellCarried()
	}
}

// tellCarried tells a network's process that has been started since what it cannot know.
func (h *Holder) tellCarried() {
	h.mu.Lock()
	ended := h.untold
	h.untold = nil
	h.mu.Unlock()
	for _, p := range ended {
		h.endedCarried(p)
	}
	if h.splicer != nil {
		h.splicer.list(func(all []bypass.Pair) { h.tell(opCarried, all...) })
	}
}

// endedCarried tells the network's process that a connection has ended, or keeps that for the
// next one.
func (h *Holder) endedCarried(p bypass.Pair) {
	if h.tell(opEnded, p) != nil {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.untold = append(h.untold, p)
	}
}

// tell sends what needs no answer; the one that comes is empty.
func (h *Holder) tell(op operation, pairs ...bypass.Pair) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.client.conn.SetWriteDeadline(time.Now().Add(otherPatience))
	return send(h.client.conn, request{Op: op, Connections: pairs})
}
