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
	Learned = "learn" // it was let pass, and would have been denied
)

// Record is one line of the record of a guest's flows, as JSON.
type Record struct {
	Time     time.Time `json:"time"` // of the end of a flow that passed, else of its verdict
	Guest    string    `json:"guest,omitempty"`
	Protocol string    `json:"protocol"` // tcp, udp, icmp, or dns for a name that was asked for
	Inward   bool      `json:"in,omitempty"`
	// Source and Destination are addresses with ports, as far as they are known.
	// Destination is the real one, not a name's synthetic address.
	Source      string `json:"source,omitempty"`
	Destination string `json:"destination,omitempty"`
	Port        uint16 `json:"port,omitempty"` // of the destination
	Name        string `json:"name,omitempty"` // that the destination was reached by
	Seen        string `json:"seen,omitempty"` // name in the traffic, where it is another
	Rule        string `json:"rule,omitempty"` // file:line: text
	Verdict     string `json:"verdict"`
	Reason      Reason `json:"reason"`
	// Count is how many flows the line is about, if not one: all that were alike
	// since the last line about them. Source, Destination and Seen are then those
	// of the last.
	Count    uint64  `json:"count,omitempty"`
	Out      uint64  `json:"bytes_out,omitempty"` // from the guest
	In       uint64  `json:"bytes_in,omitempty"`
	Duration float64 `json:"seconds,omitempty"` // together
}

// NewRecord is the record of a verdict about a flow, without what only its end tells.
func NewRecord(f Flow, v Verdict, source netip.AddrPort) Record {
	r := Record{Protocol: f.Proto.String(), Inward: f.Direction == In, Port: f.Port, Name: f.Name, Reason: v.Reason, Verdict: Denied}
	if v.Allow {
		r.Verdict = Allowed
	}
	if v.Rule != nil {
		r.Rule = v.Rule.Where() + ": " + v.Rule.Text
	}
	if source.IsValid() {
		r.Source = source.String()
	}
	if f.Addr.IsValid() {
		r.Destination = f.Addr.String()
		if f.Proto != ICMP {
			r.Destination = netip.AddrPortFrom(f.Addr, f.Port).String()
		}
	}
	return r
}

const (
	// recordKinds are the kinds of flows that are told apart between two lines about
	// each; those beyond are counted together.
	recordKinds = 1024
	// RecordEvery is how often flows that are like earlier ones are told of.
	RecordEvery = 10 * time.Second
)

// Recorder writes the first flow of each kind whole, and how many more were like it every
// RecordEvery, so that no guest fills a disk: it writes recordKinds lines in that time
// at most, and those that are kinds of their own only once. Its zero value writes
// nowhere; its methods belong to one goroutine.
type Recorder struct {
	Write func(Record) // takes a line

	kinds map[kind]*Record
	other *Record // of the kinds for which there is no room; Count is how many
	due   time.Duration
}

// kind is what flows have in common that are told of together.
type kind struct {
	guest, protocol, to, rule string
	port                      uint16
	verdict                   string
	reason                    Reason
	inward                    bool
}

func (r *Record) kind() kind {
	k := kind{r.Guest, r.Protocol, r.Name, r.Rule, r.Port, r.Verdict, r.Reason, r.Inward}
	if k.to == "" {
		k.to = r.Destination
		if a, err := netip.ParseAddrPort(k.to); r.Inward {
			if a, err = netip.ParseAddrPort(r.Source); err == nil {
				k.to = a.Addr().String() // its port is another each time
			}
		} else if err == nil {
			k.to = a.Addr().String()
		}
	}
	return k
}

// Add takes a record at a time of a monotonic clock. The caller calls Flush at the time
// that it returns, if it is not zero.
func (x *Recorder) Add(r Record, now time.Duration) (due time.Duration) {
	if x.Write == nil {
		return 0
	}
	if x.kinds == nil {
		x.kinds = make(map[kind]*Record)
	}
	k := r.kind()
	like, known := x.kinds[k]
	switch {
	case !known && len(x.kinds) < recordKinds:
		x.kinds[k] = nil // told of; nothing to add yet
		x.Write(r)
	case !known:
		if x.other == nil {
			x.other = &Record{Protocol: "any", Verdict: r.Verdict, Reason: "more kinds of flows than are told apart"}
		}
		x.other.add(r)
	default:
		if like == nil {
			like = new(Record)
			x.kinds[k] = like
		}
		like.add(r)
	}
	if x.due == 0 {
		x.due = now + RecordEvery
	}
	return x.due
}

// add makes a record that of one more flow.
func (r *Record) add(last Record) {
	last.Count = r.Count + 1
	last.In += r.In
	last.Out += r.Out
	last.Duration += r.Duration
	if r.Protocol == "any" {
		r.Time, r.Count, r.In, r.Out, r.Duration = last.Time, last.Count, last.In, last.Out, last.Duration
		return
	}
	*r = last
}

// Flush writes what was counted, and forgets kinds that were not seen since the last
// time: one that comes again is whole again.
func (x *Recorder) Flush() {
	x.due = 0
	for k, like := range x.kinds {
		if like == nil {
			delete(x.kinds, k)
			continue
		}
		x.Write(*like)
		x.kinds[k] = nil
	}
	if x.other != nil {
		x.Write(*x.other)
		x.other = nil
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

// portText is ports in the form of the language: the least that says them.
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
