package repair

import "time"

const (
	// loFirst is how long no connection is tried after a guest's lo has not passed one, and
	// loMost how long at most when that goes on: each attempt has a connection pause for
	// AnswerPatience.
	loFirst = time.Second
	loMost  = 5 * time.Minute
	// AnswerFirst and AnswerPatience are how long a guest may take to answer the first
	// segment, at first and in all. As a rule the answer is there before the agent's.
	AnswerFirst    = time.Millisecond
	AnswerPatience = 200 * time.Millisecond
)

// Loopback is what is known of a guest's lo for one address family. Until it has passed what
// a restored connection sends, one connection at a time finds out. Each Begin is followed by
// Passes or Ends.
type Loopback struct {
	works  bool
	trying int           // connections
	again  time.Duration // when the next may be tried
	wait   time.Duration // after the last failure
}

// Free reports whether a connection may be tried now.
func (l *Loopback) Free(now time.Duration) bool {
	return l.works || l.trying == 0 && now >= l.again
}

// Works reports whether lo has passed a connection's segments, as far as is known.
func (l *Loopback) Works() bool { return l.works }

// Answers is called when a connection's segments were answered that goes on being tried, or not.
func (l *Loopback) Answers() { l.works, l.wait = true, 0 }

// Begin is called for each connection that is tried.
func (l *Loopback) Begin() { l.trying++ }

// Ends is called when a connection is no longer tried.
func (l *Loopback) Ends() { l.trying-- }

// Passes is called when a connection's segments were answered.
func (l *Loopback) Passes() {
	l.trying--
	l.Answers()
}

// Fails is called when a connection's segments were not answered, before Ends. Those that were
// tried at the same time say no more than it does.
func (l *Loopback) Fails(now time.Duration) {
	if !l.works && now < l.again {
		return
	}
	l.works = false
	l.wait = min(max(2*l.wait, loFirst), loMost)
	l.again = now + l.wait
}
