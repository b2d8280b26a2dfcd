package stacktest

import (
	"math/rand/v2"
	"sync"
	"time"
)

// Impairment says what befalls the frames of a link, each way. The zero value
// is a perfect link.
type Impairment struct {
	Seed uint64
	// Shares of the frames, 0 to 1, that are lost, doubled, or held back until
	// one to three others have passed.
	Loss, Duplicate, Reorder float64
}

// holdLimit releases a frame that was held back when no others follow.
const holdLimit = 3 * time.Millisecond

// lane is one direction of an impaired link.
type lane struct {
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

func newLane(im Impairment, stream uint64, out func(Frame)) *lane {
	return &lane{im: im, out: out, rng: rand.New(rand.NewPCG(im.Seed, stream))}
}

// pass takes one frame through the lane. Frames that it releases go out
// without the lock: the receiver may answer at once.
func (l *lane) pass(f Frame) {
	var buf [4]Frame
	for _, f := range l.decide(f, buf[:0]) {
		l.out(f)
	}
}

func (l *lane) decide(f Frame, out []Frame) []Frame {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch chance := l.rng.Float64(); {
	case l.closed || chance < l.im.Loss:
	case chance < l.im.Loss+l.im.Reorder:
		l.held = append(l.held, held{f, 1 + l.rng.IntN(3)})
		if len(l.held) == 1 {
			if l.timer == nil {
				l.timer = time.AfterFunc(holdLimit, l.release)
			} else {
				l.timer.Reset(holdLimit)
			}
		}
		return out
	case chance < l.im.Loss+l.im.Reorder+l.im.Duplicate:
		out = append(out, f, f)
	default:
		out = append(out, f)
	}
	rest := l.held[:0]
	for _, h := range l.held {
		if h.behind--; h.behind > 0 {
			rest = append(rest, h)
		} else {
			out = append(out, h.frame)
		}
	}
	l.held = rest
	return out
}

func (l *lane) release() {
	l.mu.Lock()
	var out []Frame
	if !l.closed {
		for _, h := range l.held {
			out = append(out, h.frame)
		}
	}
	l.held = nil
	l.mu.Unlock()
	for _, f := range out {
		l.out(f)
	}
}

func (l *lane) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed, l.held = true, nil
	if l.timer != nil {
		l.timer.Stop()
	}
}
