package bridge

import (
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"epiphyte/stack"
)

// The numbers of both sockets after an exchange, wherever sequence numbers and timestamps begin.
func TestFrozen(t *testing.T) {
	for _, tc := range []struct{ first, stamps [2]uint32 }{
		{[2]uint32{1000, 5000}, [2]uint32{1, 1}},
		{[2]uint32{0, 1<<31 - 1}, [2]uint32{1<<31 - 1, 1 << 31}},
		{[2]uint32{1<<32 - 1, 1<<32 - 2}, [2]uint32{1<<31 + 1, 3 << 30}},
		{[2]uint32{1<<32 - 101, 1<<32 - 50}, [2]uint32{1<<32 - 1, 1<<32 - 2}},
		{[2]uint32{1<<31 - 50, 1 << 31}, [2]uint32{1<<32 - 3, 0}},
	} {
		k := newTalk(t, Config{})
		k.first = tc.first
		when := func(i int, later uint32) []byte { return stamp(tc.stamps[i] + later) }
		c := k.open(slices.Concat(mss1460, sackOK, when(0, 0), scale(7)), slices.Concat(mss1400, sackOK, when(1, 0), scale(9)))
		c.Await(func() {})
		k.say(0, segment{seq: 1, ack: 1, window: 500, options: when(0, 3), data: make([]byte, 100)})
		k.say(1, segment{seq: 1, ack: 101, window: 301, options: when(1, 5)})
		k.say(1, segment{seq: 1, ack: 101, window: 302, options: when(1, 6), data: []byte("answer")})
		k.say(0, segment{seq: 101, ack: 1, window: 501, options: when(0, 4), data: []byte("more")})
		// What is late, or sent again, changes nothing.
		k.say(1, segment{seq: 1, ack: 51, window: 9, options: when(1, 2)})
		k.say(0, segment{seq: 0, ack: 1, window: 501, options: when(0, 2)})
		k.say(0, segment{seq: 101, ack: 1, window: 501, data: []byte("more")})
		want := [2]stack.Frozen{
			{
				SendNext: tc.first[1] + 1, Unacknowledged: []byte("answer"), RecvNext: tc.first[0] + 105, SendWindow: 501 << 7, RecvWindow: 302<<9 - 4,
				SendScale: 7, RecvScale: 9, MSS: 1460, Timestamp: tc.stamps[1] + 6,
			},
			{
				SendNext: tc.first[0] + 101, Unacknowledged: []byte("more"), RecvNext: tc.first[1] + 7, SendWindow: 302 << 9, RecvWindow: 501<<7 - 6,
				SendScale: 9, RecvScale: 7, MSS: 1400, Timestamp: tc.stamps[0] + 4,
			},
		}
		check := func(when string) {
			t.Helper()
			for i := range want {
				want[i].Guest, want[i].Outside, want[i].SACK, want[i].Timestamps = k.addrs[i], k.addrs[1-i], true, true
			}
			if got := k.frozen(c); !reflect.DeepEqual(got, want) {
				t.Errorf("from %d and %d, stamps from %d and %d, %s:\n%+v, want\n%+v", tc.first[0], tc.first[1], tc.stamps[0], tc.stamps[1], when, got, want)
			}
		}
		check("with data on its way")
		if c.Acknowledged(0) || c.Acknowledged(1) {
			t.Error("all is acknowledged before it is")
		}
		k.say(0, segment{seq: 105, ack: 7, window: 503, options: when(0, 8)})
		if c.Acknowledged(0) || !c.Acknowledged(1) {
			t.Errorf("the first one has acknowledged all: %v and %v", c.Acknowledged(0), c.Acknowledged(1))
		}
		k.say(1, segment{seq: 7, ack: 105, window: 304, options: when(1, 9)})
		if !c.Acknowledged(0) || !c.Acknowledged(1) {
			t.Error("all is acknowledged, and it says otherwise")
		}
		for i := range want {
			w := &want[i]
			w.SendNext += uint32(len(w.Unacknowledged))
			w.Unacknowledged = nil
		}
		want[0].SendWindow, want[0].RecvWindow, want[0].Timestamp = 503<<7, 304<<9, tc.stamps[1]+9
		want[1].SendWindow, want[1].RecvWindow, want[1].Timestamp = 304<<9, 503<<7, tc.stamps[0]+8
		c.Await(nil)
		check("with nothing on its way")
	}
}

// A member may have sent more than the other one's window, which ends at zero then.
func TestFrozenBeyondTheWindow(t *testing.T) {
	k := newTalk(t, Config{})
	c := k.open()
	c.Await(func() {})
	k.say(0, segment{seq: 1, ack: 1, data: make([]byte, 301)})
	if f := k.frozen(c); f[0].RecvWindow != 0 || f[1].SendWindow != 300 {
		t.Errorf("windows of %d and %d", f[0].RecvWindow, f[1].SendWindow)
	}
}

// What a member has sent and the other one has not acknowledged is kept while somebody waits, if
// it is without a gap and not much. Without it no socket can continue the connection: the other
// one may have received it.
func TestUnacknowledged(t *testing.T) {
	const missing = "missing"
	await := func(c *Conn) { c.Await(func() {}) }
	letters := func(from, n int) string {
		b := make([]byte, n)
		for i := range b {
			b[i] = 'a' + byte((from+i)%26)
		}
		return string(b)
	}
	// step is data of the alphabet, or an acknowledgement, or an order.
	type step struct {
		seq, size int
		ack       uint32
		do        func(*Conn)
	}
	for name, tc := range map[string]struct {
		steps []step
		want  string
	}{
		"nobody waits":                       {[]step{{seq: 1, size: 3}}, missing},
		"sent before":                        {[]step{{seq: 1, size: 3}, {do: await}}, missing},
		"sent since":                         {[]step{{do: await}, {seq: 1, size: 3}, {seq: 4, size: 3}}, "abcdef"},
		"some sent before":                   {[]step{{seq: 1, size: 3}, {do: await}, {seq: 4, size: 3}}, missing},
		"some sent before, and acknowledged": {[]step{{seq: 1, size: 3}, {do: await}, {seq: 4, size: 3}, {ack: 4}}, "def"},
		"a part acknowledged":                {[]step{{do: await}, {seq: 1, size: 6}, {ack: 3}}, "cdef"},
		"all acknowledged":                   {[]step{{do: await}, {seq: 1, size: 6}, {ack: 7}}, ""},
		"acknowledged before it is sent":     {[]step{{do: await}, {seq: 1, size: 6}, {ack: 8}}, missing},
		"sent again":                         {[]step{{do: await}, {seq: 1, size: 3}, {seq: 4, size: 3}, {seq: 1, size: 3}, {seq: 2, size: 5}}, "abcdef"},
		"sent again with more":               {[]step{{do: await}, {seq: 1, size: 3}, {seq: 1, size: 6}}, missing},
		"sent again with more, acknowledged": {[]step{{do: await}, {seq: 1, size: 3}, {seq: 1, size: 6}, {seq: 7, size: 2}, {ack: 7}}, "gh"},
		"a gap":                              {[]step{{do: await}, {seq: 1, size: 3}, {seq: 5, size: 3}}, missing},
		"a gap that is filled":               {[]step{{do: await}, {seq: 1, size: 3}, {seq: 5, size: 3}, {seq: 4, size: 1}}, missing},
		"a gap that is acknowledged":         {[]step{{do: await}, {seq: 1, size: 3}, {seq: 5, size: 3}, {seq: 8, size: 2}, {ack: 8}}, "hi"},
		"a gap without data":                 {[]step{{do: await}, {seq: 1, size: 3}, {seq: 5}}, missing},
		"a probe":                            {[]step{{do: await}, {seq: 1, size: 3}, {seq: 3, size: 0}, {seq: 3, size: 1}}, "abc"},
		"more in all than is kept":           {[]step{{do: await}, {seq: 1, size: mostKept - 5}, {ack: mostKept - 6}, {seq: mostKept - 4, size: 9}}, letters(mostKept-7, 11)},
		"in two pieces":                      {[]step{{do: await}, {seq: 1, size: 5000}}, letters(0, 5000)},
		"all that is kept":                   {[]step{{do: await}, {seq: 1, size: mostKept - 1}, {seq: mostKept, size: 1}}, letters(0, mostKept)},
		"all that is kept at once":           {[]step{{do: await}, {seq: 1, size: mostKept}}, letters(0, mostKept)},
		"too much":                           {[]step{{do: await}, {seq: 1, size: mostKept}, {seq: mostKept + 1, size: 3}}, missing},
		"too much at once":                   {[]step{{do: await}, {seq: 1, size: mostKept + 1}}, missing},
		"too much, acknowledged":             {[]step{{do: await}, {seq: 1, size: mostKept}, {seq: mostKept + 1, size: 3}, {ack: mostKept + 1}}, letters(mostKept, 3)},
		"nobody waits any longer":            {[]step{{do: await}, {seq: 1, size: 3}, {do: func(c *Conn) { c.Await(nil) }}, {seq: 4, size: 3}}, missing},
		"somebody else waits":                {[]step{{do: await}, {seq: 1, size: 3}, {do: await}, {seq: 4, size: 3}}, missing},
		"it stays":                           {[]step{{do: await}, {seq: 1, size: 3}, {do: (*Conn).Stay}}, missing},
	} {
		t.Run(name, func(t *testing.T) {
			for from := range 2 {
				k := newTalk(t, Config{})
				c := k.open()
				for _, s := range tc.steps {
					switch {
					case s.do != nil:
						s.do(c)
					case s.ack > 0:
						k.say(1-from, segment{seq: 1, ack: s.ack})
					default:
						k.say(from, segment{seq: uint32(s.seq), ack: 1, data: []byte(letters(s.seq-1, s.size))})
					}
				}
				if kept := len(c.ends[from].kept); kept > mostKept {
					t.Errorf("%d bytes are kept", kept)
				}
				if tc.want == missing {
					for i := range 2 {
						if _, ok := c.Frozen(i); ok {
							t.Errorf("what %d has sent is not kept, and the socket of %d continues without it", from, i)
						}
					}
					continue
				}
				f := k.frozen(c)
				if got := string(f[1-from].Unacknowledged); got != tc.want {
					t.Errorf("of what %d has sent, %.50q is kept, want %.50q", from, got, tc.want)
				}
				if rest := f[from].Unacknowledged; len(rest) > 0 {
					t.Errorf("%q of the other one is kept", rest)
				}
			}
		})
	}
}

// Whatever is lost, sent again or late, the two sockets agree, and what is kept is what was sent.
func TestSocketsAgree(t *testing.T) {
	continued, kept := 0, 0
	for seed := range uint64(100) {
		r := rand.New(rand.NewPCG(seed, 0))
		k := newTalk(t, Config{})
		k.first = [2]uint32{r.Uint32(), r.Uint32()}
		c := k.open()
		letter := func(from int, seq uint32) byte { return byte(seq*7 + seq>>8 + uint32(from)) }
		sent, acked := [2]uint32{1, 1}, [2]uint32{1, 1} // and which of it the other one has acknowledged
		for range 200 {
			from := r.IntN(2)
			seq, size := sent[from], uint32(r.IntN(2000))
			switch n := r.IntN(40); {
			case n == 0:
				seq += uint32(r.IntN(1000)) // something was lost before it came to the bridge
			case n == 1:
				c.Await(nil)
			case n < 4:
				c.Await(func() {})
			case n < 8:
				seq = acked[from] + uint32(r.IntN(int(seq-acked[from]+1))) // sent again
			case n < 20:
				size = 0
			}
			if r.IntN(4) == 0 {
				acked[1-from] = sent[1-from]
			} else {
				acked[1-from] += uint32(r.IntN(int(sent[1-from] - acked[1-from] + 1)))
			}
			s := segment{seq: seq, ack: acked[1-from], window: uint16(r.Uint32()), data: make([]byte, size)}
			for i := range s.data {
				s.data[i] = letter(from, seq+uint32(i))
			}
			k.say(from, s)
			sent[from] = max(sent[from], seq+size)
			if c.Acknowledged(from) != (acked[from] == sent[from]) {
				t.Fatalf("seed %d: all of %d is acknowledged: %v", seed, from, c.Acknowledged(from))
			}
			if _, ok := c.Frozen(from); !ok {
				if c.Acknowledged(0) && c.Acknowledged(1) {
					t.Fatalf("seed %d: nothing is on its way, and no socket can continue", seed)
				}
				continue
			}
			continued++
			for i, f := range k.frozen(c) {
				kept = max(kept, len(f.Unacknowledged))
				if want := k.first[1-i] + acked[1-i]; f.SendNext != want {
					t.Fatalf("seed %d: the socket of %d sends from %d on, want %d", seed, i, f.SendNext, want)
				}
				for j, b := range f.Unacknowledged {
					if b != letter(1-i, acked[1-i]+uint32(j)) {
						t.Fatalf("seed %d: byte %d of what %d has not acknowledged is another one", seed, j, i)
					}
				}
			}
		}
	}
	if continued < 5000 || kept < 5000 {
		t.Errorf("sockets could continue %d times, with %d bytes at most", continued, kept)
	}
}
