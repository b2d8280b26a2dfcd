package bridge

import (
	"fmt"
	"log/slog"
	"time"
)

// A member may send floodRate copies a second to everybody, and floodBurst at once.
// Copies are counted, not frames, since they cost the shard's thread its time. Writing
// one takes 2 us, or 6 us if it has 64 kB, so a member that does nothing else takes a
// sixtieth or a twentieth of the thread, however many others there are. In a full /24
// that is 32 frames a second, and 16 at once, more than announcements of services need;
// between two members, 4096 frames.
const (
	floodRate  = 8192
	floodBurst = 4096
)

// forward forwards a frame from p, and reports whether it is for the stack.
func (b *Bridge) forward(p *Port, f *frame) (toStack bool) {
	t := b.table.Load()
	k := b.inspect(t, p, f)
	switch {
	case k == spoofed:
		b.warn(p, f)
		p.spoofed.Add(1)
		return false
	case k == malformed:
		p.other.Add(1)
		return false
	case k == forGateway && !b.allow(p, len(t.ports)):
		return false
	}
	dst := f.dst()
	switch {
	case dst == b.gateway:
		return true
	case k == forGateway && !toMany(dst): // it may come from 0.0.0.0 or ::
		p.other.Add(1)
		return false
	case !toMany(dst):
		if to := t.byMAC[dst]; to == nil || b.follow(t, p, to, f) {
			b.pass(p, to, f)
		}
		return false
	case k == forGateway:
		return true
	case k == question && b.cfg.Plan.IsOwn(f.target):
		return true
	case k == question && t.byAddr[f.target] != p:
		b.pass(p, t.byAddr[f.target], f)
		return false
	}
	return b.flood(t, p, f) // questions for the sender's own addresses, too: announcements
}

// pass writes a frame to one member; nil: nobody has the destination.
func (b *Bridge) pass(p, to *Port, f *frame) {
	if to == nil || to == p || b.cfg.Isolate {
		p.other.Add(1)
		return
	}
	to.write(f.whole)
}

// flood writes a frame to everybody, and reports whether the stack gets it, too.
func (b *Bridge) flood(t *table, p *Port, f *frame) (toStack bool) {
	ports := t.ports
	if b.cfg.Isolate {
		ports = nil
	}
	if !b.allow(p, max(1, len(ports))) { // all but p, and the stack
		return false
	}
	for _, to := range ports {
		if to != p {
			to.write(f.whole)
		}
	}
	return true
}

// allow takes copies from p's bucket, and reports whether there were enough.
func (b *Bridge) allow(p *Port, copies int) bool {
	if p.bucket.AllowN(time.Time{}.Add(b.cfg.Shard.Now()), min(copies, floodBurst)) {
		return true
	}
	p.rate.Add(1)
	return false
}

// warn logs, once, why a member's frames may not arrive: it may route or bridge for
// others.
func (b *Bridge) warn(p *Port, f *frame) {
	if p.warned {
		return
	}
	p.warned = true
	b.cfg.Logger.Warn("dropped a frame that does not speak in its sender's name",
		slog.String("member", p.addr.IPv4.String()), slog.String("from", fmt.Sprintf("%x", f.src())), slog.String("type", fmt.Sprintf("%#04x", uint16(f.eth.Type()))))
}
