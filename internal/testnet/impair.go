package testnet

import (
	"math/rand/v2"
	"sync"
	"time"
)

// Impairment says what happens to the frames of a link, each way. The zero value
// is a perfect link.
type Impairment struct {
	Seed uint64
	// Shares of the frames, 0 to 1, that are lost, doubled, or held back until
	// one to three others have passed.
	Loss, Duplicate, Reorder float64
}

// holdLimit releases a frame that was held back when no others follow.
const holdLimit = 3 * time.Millisecond

// direction is one of the two directions of an impaired link.
type direction struct {
	im  Impairment
	out func(Frame)

	mu     sync.Mutex
	rng    *rand.Rand // guarded by mu
	held   []held     // guarded by mu
	timer  *time.Timer
	closed bool // guarded by mu
}

type held struct {
	frame  Frame
	behind int // frames that are still to pass it
}

func newDirection(im Impairment, stream uint64, out func(Frame)) *direction {
	return &direction{im: im, out: out, rng: rand.New(rand.NewPCG(im.Seed, stream))}
}

// pass takes one frame through. Frames that it releases go out
// without the lock: the receiver may answer at once.
func (d *direction) pass(f Frame) {
	var buf [4]Frame
	for _, f := range d.decide(f, buf[:0]) {
		d.out(f)
	}
}

func (d *direction) decide(f Frame, out []Frame) []Frame {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch chance := d.rng.Float64(); {
	case d.closed || chance < d.im.Loss:
	case chance < d.im.Loss+d.im.Reorder:
		d.held = append(d.held, held{f, 1 + d.rng.IntN(3)})
		if len(d.held) == 1 {
			if d.timer == nil {
				d.timer = time.AfterFunc(holdLimit, d.release)
			} else {
				d.timer.Reset(holdLimit)
			}
		}
		return out
	case chance < d.im.Loss+d.im.Reorder+d.im.Duplicate:
		out = append(out, f, f)
	default:
		out = append(out, f)
	}
	rest := d.held[:0]
	for _, h := range d.held {
		if h.behind--; h.behind > 0 {
			rest = append(rest, h)
		} else {
			out = append(out, h.frame)
		}
	}
	d.held = rest
	return out
}

func (d *direction) release() {
	d.mu.Lock()
	var out []Frame
	if !d.closed {
		for _, h := range d.held {
			out = append(out, h.frame)
		}
	}
	d.held = nil
	d.mu.Unlock()
	for _, f := range out {
		d.out(f)
	}
}

func (d *direction) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed, d.held = true, nil
	if d.timer != nil {
		d.timer.Stop()
	}
}
