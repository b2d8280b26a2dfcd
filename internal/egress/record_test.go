package egress

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// log is a Recorder and what it wrote.
type log struct {
	Recorder
	lines []Record
}

func newLog() *log {
	l := new(log)
	l.Write = func(r Record) { l.lines = append(l.lines, r) }
	return l
}

func flowOf(t testing.TB, s string) Flow {
	t.Helper()
	f, err := ParseFlow(s)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func (l *log) add(t testing.TB, flow string, v Verdict, now time.Duration) {
	l.Add(Event{Flow: flowOf(t, flow), Verdict: v, Source: netip.MustParseAddrPort("10.0.2.100:40000"), Ending: Ending{Out: 10}}, now)
}

// Of a flow in, the record names the client as the source, and the guest's server.
func TestRecordOfClient(t *testing.T) {
	e := Event{
		Flow: flowOf(t, "in tcp from 203.0.113.1 to 8080"), Verdict: Verdict{Reason: ByDefault},
		Source: netip.MustParseAddrPort("203.0.113.1:40000"), Server: netip.MustParseAddrPort("10.0.2.100:8080"),
	}
	if r := e.Record(); !r.Inward || r.Source != "203.0.113.1:40000" || r.Destination != "10.0.2.100:8080" || r.Port != 8080 {
		t.Errorf("%+v", r)
	}
}

// The first of a kind is whole, the others are counted.
func TestRecorder(t *testing.T) {
	l := newLog()
	deny := Verdict{Reason: ByDefault}
	for range 1000 {
		l.add(t, "tcp evil.example:443 at 203.0.113.1", deny, 0)
		l.add(t, "tcp 203.0.113.7:443", deny, 0)
	}
	if len(l.lines) != 2 || l.lines[0].Name != "evil.example" || l.lines[1].Destination != "203.0.113.7:443" || l.lines[0].Count != 0 {
		t.Fatalf("%d lines: %+v", len(l.lines), l.lines)
	}
	l.Flush()
	if len(l.lines) != 4 || l.lines[2].Count != 999 || l.lines[3].Count != 999 || l.lines[2].Out != 9990 || l.lines[2].Source == "" {
		t.Fatalf("%d lines: %+v", len(l.lines), l.lines)
	}
	l.Flush()
	l.add(t, "tcp evil.example:443 at 203.0.113.1", deny, time.Minute)
	if len(l.lines) != 5 || l.lines[4].Count != 0 {
		t.Fatalf("%d lines: %+v", len(l.lines), l.lines)
	}
}

// TestRecorderIsBounded: whatever a guest tries, it fills neither memory nor disk.
func TestRecorderIsBounded(t *testing.T) {
	l := newLog()
	var due time.Duration
	for i := range 100_000 {
		f := Flow{Proto: TCP, Addr: netip.AddrFrom4([4]byte{203, byte(i >> 16), byte(i >> 8), byte(i)}), Port: 443}
		due = l.Add(Event{Flow: f}, time.Second)
	}
	if len(l.lines) != recordKinds || len(l.kinds) != recordKinds || due != time.Second+RecordEvery {
		t.Errorf("%d lines, %d kinds, due %v", len(l.lines), len(l.kinds), due)
	}
	l.Flush()
	last := l.lines[len(l.lines)-1]
	if len(l.lines) != recordKinds+1 || last.Count != 100_000-recordKinds || len(l.kinds) != 0 {
		t.Errorf("%d lines, the last %+v", len(l.lines), last)
	}
}

// TestRecorderTellsKindsApart by all that a line says but what is another each time.
func TestRecorderTellsKindsApart(t *testing.T) {
	rules := parsed(t, "deny 203.0.113.0/24\ndeny 203.0.113.0/25\n").Rules()
	event := func(change func(*Event)) Event {
		e := Event{
			Guest: "a", Flow: Flow{Proto: TCP, Addr: netip.MustParseAddr("203.0.113.1"), Port: 443},
			Verdict: Verdict{Reason: ByRule, Rule: rules[0]}, Source: netip.MustParseAddrPort("10.0.2.100:40000"),
		}
		change(&e)
		return e
	}
	l := newLog()
	for i, tt := range []struct {
		change func(*Event)
		known  bool
	}{
		{func(e *Event) {}, false},
		{func(e *Event) { e.Source = netip.MustParseAddrPort("10.0.2.100:40001") }, true},
		{func(e *Event) { e.Seen, e.Out = "b.example", 1 }, true},
		{func(e *Event) { e.Guest = "b" }, false},
		{func(e *Event) { e.Flow.Proto = UDP }, false},
		{func(e *Event) { e.Flow.Port = 80 }, false},
		{func(e *Event) { e.Flow.Addr = netip.MustParseAddr("203.0.113.2") }, false},
		{func(e *Event) { e.Flow.Name = "a.example" }, false},
		{func(e *Event) { e.Flow.Name, e.Flow.Addr = "a.example", netip.MustParseAddr("203.0.113.2") }, true},
		{func(e *Event) { e.Flow.Direction = In }, false},
		{func(e *Event) { e.Verdict.Rule = rules[1] }, false},
		{func(e *Event) { e.Verdict = Verdict{Reason: ByDefault} }, false},
		{func(e *Event) { e.Verdict.Allow = true }, false},
		{func(e *Event) { e.Learned = true }, false},
		{func(e *Event) { e.Asked, e.Flow.Name = true, "a.example" }, false},
	} {
		before := len(l.lines)
		l.Add(event(tt.change), 0)
		if known := len(l.lines) == before; known != tt.known {
			t.Errorf("event %d is told of: %v", i, !known)
		}
	}
}

// TestRecorderDoesNotAllocate for what it only counts, whether its kind is told apart or not.
func TestRecorderDoesNotAllocate(t *testing.T) {
	l := newLog()
	e := Event{Flow: flowOf(t, "tcp 203.0.113.7:443"), Verdict: Verdict{Reason: ByDefault}, Source: netip.MustParseAddrPort("10.0.2.100:40000")}
	l.Add(e, 0)
	if n := testing.AllocsPerRun(1000, func() { l.Add(e, 0) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
	for port := range uint16(recordKinds) {
		e.Flow.Port = port
		l.Add(e, 0)
	}
	e.Flow.Port = recordKinds
	if n := testing.AllocsPerRun(1000, func() { l.Add(e, 0) }); n > 0 {
		t.Errorf("%v allocations beyond the kinds that are told apart", n)
	}
}

// BenchmarkRecorder is what a denied flow that is only counted pays for being recorded.
func BenchmarkRecorder(b *testing.B) {
	x := Recorder{Write: func(Record) {}}
	e := Event{
		Flow: Flow{Proto: TCP, Addr: netip.MustParseAddr("203.0.113.7"), Port: 443}, Source: netip.MustParseAddrPort("10.0.2.100:40000"),
		Verdict: Verdict{Reason: ByRule, Rule: parsed(b, "deny 203.0.113.0/24").Rules()[0]},
	}
	b.ReportAllocs()
	for b.Loop() {
		x.Add(e, 0)
	}
}

// TestSuggest: the shortest list, which allows what was recorded and nothing more.
func TestSuggest(t *testing.T) {
	learn := func(flow string, reason Reason) string {
		f := flowOf(t, flow)
		r := (&Event{Flow: f, Verdict: Verdict{Reason: reason}, Learned: true, Source: netip.MustParseAddrPort("192.0.2.9:5000")}).Record()
		if f.Direction == In {
			r.Source = netip.AddrPortFrom(f.Addr, 5000).String()
		}
		b, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	var records []string
	for _, flow := range []string{
		"tcp github.com:443", "tcp github.com:443", "udp github.com:443", "tcp github.com:22", "tcp api.github.com:443",
		"tcp 192.0.2.4:5432", "tcp 192.0.2.5:5432", "tcp 192.0.2.6:5432", "tcp 192.0.2.7:5432", "tcp 192.0.2.8:5432",
		"tcp [2001:db8::1]:80", "icmp example.org", "tcp a.example:8000", "tcp a.example:8001", "tcp a.example:8002",
		"in tcp from 198.51.100.1 to 8080",
	} {
		records = append(records, learn(flow, ByDefault))
	}
	records = append(records, learn("tcp corp.example:443 at 10.0.0.9", NotPublic), learn("udp 8.8.8.8:53", OtherDNS), "",
		`{"protocol":"dns","name":"asked.example","verdict":"learn","reason":"default"}`,
		`{"protocol":"tcp","name":"denied.example","port":443,"verdict":"deny","reason":"default"}`)
	const want = `allow github.com:443
allow tcp github.com:22
allow tcp api.github.com:443
allow tcp a.example:8000-8002
allow tcp corp.example:443
allow icmp example.org
allow tcp 10.0.0.9:443
allow tcp 192.0.2.4/30:5432
allow tcp 192.0.2.8:5432
allow tcp [2001:db8::1]:80
allow in tcp from 198.51.100.1 to 8080
# cannot be allowed: port 53 of "8.8.8.8:53": guests ask our resolver only
`
	var got strings.Builder
	if err := Suggest(&got, strings.NewReader(strings.Join(records, "\n")), false); err != nil {
		t.Fatal(err)
	}
	if got.String() != want {
		t.Errorf("suggested\n%swant\n%s", got.String(), want)
	}
	p := parsed(t, got.String())
	for flow, allowed := range map[string]bool{
		"udp github.com:443": true, "udp github.com:22": false, "tcp corp.example:443 at 10.0.0.9": true, "tcp corp.example:443 at 10.0.0.8": false,
		"tcp 192.0.2.3:5432": false, "tcp 192.0.2.9:5432": false, "in tcp from 198.51.100.1 to 8080": true, "in tcp from 198.51.100.2 to 8080": false,
	} {
		if v := p.Decide(flowOf(t, flow)); v.Allow != allowed {
			t.Errorf("%s: %+v", flow, v)
		}
	}
	got.Reset()
	if err := Suggest(&got, strings.NewReader(strings.Join(records, "\n")), true); err != nil || !strings.Contains(got.String(), "allow tcp denied.example:443\n") {
		t.Errorf("with what was denied: %s, %v", got.String(), err)
	}
	if err := Suggest(&got, strings.NewReader("{}\nno"), false); err == nil || !strings.Contains(err.Error(), "line 2") {
		t.Errorf("%v", err)
	}
}

// FuzzSuggest: whatever was recorded, what is suggested is a policy.
func FuzzSuggest(f *testing.F) {
	f.Add("tcp", "a.example", "", uint16(443), "")
	f.Add("udp", "", "[2001:db8::1]:443", uint16(53), "address not public")
	f.Add("icmp", "x", "10.0.0.1", uint16(0), "")
	f.Fuzz(func(t *testing.T, protocol, name, destination string, port uint16, reason string) {
		if a, err := addrOf(destination); port == 0 && protocol != "icmp" || port == 53 || port == 853 || err == nil && a.Zone() != "" {
			return // the program records none such
		}
		b, err := json.Marshal(Record{Protocol: protocol, Name: name, Destination: destination, Port: port, Reason: Reason(reason), Verdict: Learned})
		if err != nil {
			t.Fatal(err)
		}
		var text strings.Builder
		if err := Suggest(&text, strings.NewReader(string(b)+"\n"+fmt.Sprintf(`{"protocol":"tcp","name":"b.example","port":%d,"verdict":"allow"}`, max(port, 1))), false); err != nil {
			t.Fatal(err)
		}
		if _, err := Parse(Source{"suggested", text.String()}); err != nil {
			t.Errorf("%s: %v", text.String(), err)
		}
	})
}
