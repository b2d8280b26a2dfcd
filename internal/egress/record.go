package egress

import (
	"net/netip"
	"strconv"
	"time"
)

// Words of a Record's verdict.
const (
	Allowed = "allow"
	Denied  = "deny"
	Learned = "learn" // passed, but would have been denied
)

// Record is one line of the record of a guest's flows, as JSON.
type Record struct {
	Time     time.Time `json:"time"` // of the end of a flow that passed, else of its verdict
	Guest    string    `json:"guest,omitempty"`
	Protocol string    `json:"protocol"` // tcp, udp, icmp, or dns for a name that was asked for
	Inward   bool      `json:"in,omitempty"`
	// Source and Destination are addresses with ports, as far as they are known.
	// Destination is the real one, not a name's synthetic address; of a client of a
	// published port it is the guest's server.
	Source      string `json:"source,omitempty"`
	Destination string `json:"destination,omitempty"`
	Port        uint16 `json:"port,omitempty"` // of the destination
	Name        string `json:"name,omitempty"` // by which the destination was reached
	Seen        string `json:"seen,omitempty"` // another name in the traffic
	Rule        string `json:"rule,omitempty"` // file:line: text
	Verdict     string `json:"verdict"`
	Reason      Reason `json:"reason"`
	// Count is how many flows the line is about, if not one: all of a kind since the last
	// line about that kind. Source, Destination and Seen are then those of the last flow.
	Count    uint64  `json:"count,omitempty"`
	Out      uint64  `json:"bytes_out,omitempty"` // from the guest
	In       uint64  `json:"bytes_in,omitempty"`
	Duration float64 `json:"seconds,omitempty"` // the sum, with Count
}

// Event is a decided flow, not formatted yet: most denied flows are only counted.
type Event struct {
	Time    time.Time
	Guest   string
	Flow    Flow
	Verdict Verdict
	Learned bool // it passed although the verdict denies it
	Asked   bool // only its name was asked for; the rest of Flow is empty
	Source  netip.AddrPort
	Server  netip.AddrPort // the guest's, of a flow in
	Ending
}

// Ending is what is known only at the end of a flow.
type Ending struct {
	Seen     string // another name in the traffic
	Out, In  uint64 // bytes, from the guest and to it
	Duration time.Duration
}

// Record formats the event.
func (e *Event) Record() Record {
	f, v := &e.Flow, &e.Verdict
	r := Record{
		Time: e.Time, Guest: e.Guest, Protocol: f.Proto.String(), Inward: f.Direction == In, Port: f.Port, Name: f.Name, Seen: e.Seen,
		Verdict: e.word(), Reason: v.Reason, Out: e.Out, In: e.In, Duration: e.Duration.Seconds(),
	}
	if e.Asked {
		r.Protocol = "dns"
	}
	if v.Rule != nil {
		r.Rule = v.Rule.Where() + ": " + v.Rule.Text
	}
	if e.Source.IsValid() {
		r.Source = e.Source.String()
	}
	switch {
	case e.Server.IsValid():
		r.Destination = e.Server.String()
	case f.Addr.IsValid():
		r.Destination = f.Addr.String()
		if f.Proto != ICMP {
			r.Destination = netip.AddrPortFrom(f.Addr, f.Port).String()
		}
	}
	return r
}

// word is the verdict in a Record.
func (e *Event) word() string {
	switch {
	case e.Learned:
		return Learned
	case e.Verdict.Allow:
		return Allowed
	}
	return Denied
}

const (
	// recordKinds bounds the kinds of flows that are told apart at once; flows of further
	// kinds are counted together.
	recordKinds = 1024
	// RecordEvery is how often flows that are like earlier ones are recorded.
	RecordEvery = 10 * time.Second
)

// Recorder writes the first flow of each kind in full, and every RecordEvery how many more
// were like it, so that no guest fills a disk: it writes at most two lines for each of
// recordKinds kinds in that time. Its zero value writes nowhere; its methods belong to one
// goroutine.
type Recorder struct {
	Write func(Record) // takes a line

	kinds map[kind]*tally
	other tally // of flows whose kinds there was no room for
	due   time.Duration
}

// kind is what flows that are recorded together have in common. Looking it up formats
// nothing: a guest may have 100 000 flows a second denied.
type kind struct {
	guest   string
	name    string
	addr    netip.Addr // if there is no name; the source's, if inward
	rule    *Rule
	verdict string
	reason  Reason
	port    uint16
	proto   Proto
	inward  bool
	asked   bool
}

func (e *Event) kind() kind {
	f := &e.Flow
	k := kind{
		guest: e.Guest, name: f.Name, rule: e.Verdict.Rule, verdict: e.word(), reason: e.Verdict.Reason,
		port: f.Port, proto: f.Proto, inward: f.Direction == In, asked: e.Asked,
	}
	if k.name == "" {
		k.addr = f.Addr
	}
	return k
}

// tally is the flows of one kind that are not recorded yet: the last one with the totals of
// all, and their number.
type tally struct {
	last  Event
	count uint64
}

func (t *tally) add(e *Event) {
	e.Out += t.last.Out
	e.In += t.last.In
	e.Duration += t.last.Duration
	t.last = *e
	t.count++
}

// Add takes an event at a time of a monotonic clock. The caller calls Flush at the time
// that it returns, if it is not zero. It allocates only for what it writes.
func (x *Recorder) Add(e Event, now time.Duration) (due time.Duration) {
	if x.Write == nil {
		return 0
	}
	if x.kinds == nil {
		x.kinds = make(map[kind]*tally)
	}
	k := e.kind()
	like := x.kinds[k]
	switch {
	case like != nil:
		like.add(&e)
	case len(x.kinds) < recordKinds:
		x.kinds[k] = new(tally) // recorded; nothing to add yet
		x.Write(e.Record())
	default:
		x.other.add(&e)
	}
	if x.due == 0 {
		x.due = now + RecordEvery
	}
	return x.due
}

// Flush writes what was counted, and forgets kinds that were not seen since the last call:
// the next flow of such a kind is written in full again.
func (x *Recorder) Flush() {
	x.due = 0
	for k, like := range x.kinds {
		if like.count == 0 {
			delete(x.kinds, k)
			continue
		}
		r := like.last.Record()
		r.Count = like.count
		x.Write(r)
		*like = tally{}
	}
	if last := &x.other.last; x.other.count > 0 {
		x.Write(Record{
			Time: last.Time, Protocol: "any", Verdict: last.word(), Reason: "more kinds of flows than are told apart",
			Count: x.other.count, Out: last.Out, In: last.In, Duration: last.Duration.Seconds(),
		})
		x.other = tally{}
	}
}

// endpoint is an address and, if there is one, a port, in the form of the language.
func endpoint(host string, ports string) string {
	if ports == "" {
		return host
	}
	if a, err := netip.ParseAddr(host); err == nil && a.Is6() {
		host = "[" + host + "]"
	}
	return host + ":" + ports
}

// portText writes sorted ports in the form of the language, as briefly as possible.
func portText(ports []uint16) string {
	text := ""
	for i := 0; i < len(ports); {
		j := i
		for j+1 < len(ports) && ports[j+1] == ports[j]+1 {
			j++
		}
		if text != "" {
			text += ","
		}
		text += strconv.Itoa(int(ports[i]))
		switch {
		case j == i+1:
			text += "," + strconv.Itoa(int(ports[j]))
		case j > i:
			text += "-" + strconv.Itoa(int(ports[j]))
		}
		i = j + 1
	}
	return text
}
