package relay

import (
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"epiphyte/internal/policy"
	"epiphyte/internal/shard"
)

const (
	// heldMost bounds what is held of the guest's data while a watch inspects it, in
	// bytes; beyond that its window closes.
	heldMost = 16<<10 + 1
	// heldFor is how long the guest may take from its first byte until the watch decides.
	heldFor = 3 * time.Second
)

// held is what the guest has sent on a watched connection before the watch has seen
// enough. It is copied out of the stack, which shows a limited number of pieces at once,
// and is sent first once the watch permits.
type held struct {
	fl     *conn
	watch  policy.Watch
	bytes  []byte
	passed bool
	timer  shard.Timer
}

// hold shows the guest's first bytes to a watch.
func (fl *conn) hold(watch policy.Watch) { fl.held = &held{fl: fl, watch: watch} }

// release ends the holding.
func (fl *conn) release() {
	fl.r.shard.Disarm(&fl.held.timer)
	fl.held = nil
}

// pump takes what the guest has sent, and reports whether nothing is held any longer, so
// that the connection goes on like any other.
func (h *held) pump() bool {
	if h.passed {
		return h.flush()
	}
	iov := h.fl.r.vectors[:]
	for {
		elements, size, errno := h.fl.guest.Peek(iov)
		switch {
		case errno == unix.EAGAIN:
			h.fl.guestReadable = false
			return false
		case errno != 0:
			h.fl.resetHost()
			return false
		case size == 0:
			return h.see(nil, true)
		}
		before := len(h.bytes)
		for _, v := range iov[:elements] {
			b := unsafe.Slice(v.Base, v.Len)
			h.bytes = append(h.bytes, b[:min(len(b), heldMost-len(h.bytes))]...)
		}
		if before == 0 {
			h.fl.r.shard.Arm(&h.timer, heldFor, h)
		}
		fresh := h.bytes[before:]
		h.fl.guest.Discard(len(fresh))
		h.fl.moved(&h.fl.record.Out, len(fresh))
		if full := len(h.bytes) == heldMost; h.see(fresh, full) {
			return true
		}
		if h.fl.held == nil || h.passed {
			return false
		}
	}
}

// see shows bytes to the watch, and reports whether all that was held has been sent.
func (h *held) see(b []byte, last bool) bool {
	switch sight := h.watch.Sees(b, last); {
	case sight == policy.Passed:
		h.fl.r.shard.Disarm(&h.timer)
		h.passed = true
		return h.flush()
	case sight == policy.Forbidden, last:
		h.fl.guest.Abort()
		h.fl.resetHost()
	}
	return false
}

// Run implements shard.Task for the timer.
func (h *held) Run() {
	if h.fl.held == h && !h.passed && h.see(nil, true) {
		h.fl.pump()
	}
}

// flush sends what was held, and reports whether that was all.
func (h *held) flush() bool {
	for len(h.bytes) > 0 {
		n, _, errno := unix.RawSyscall(unix.SYS_WRITE, uintptr(h.fl.host.FD), uintptr(unsafe.Pointer(&h.bytes[0])), uintptr(len(h.bytes)))
		if errno == unix.EAGAIN {
			h.fl.hostFull()
			return false
		}
		if errno != 0 {
			h.fl.abortGuest()
			return false
		}
		h.bytes = h.bytes[n:]
	}
	h.fl.release()
	return true
}
