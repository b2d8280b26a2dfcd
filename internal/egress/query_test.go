package egress

import (
	"bytes"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
)

func questions() *Questions { return &Questions{Names: new(Names), Pins: new(Pins), IPv6: true} }

func parsed(t testing.TB, text string) *Policy {
	t.Helper()
	p, err := Parse(Source{"file", text})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// packed is a query with everything that a client may add to it.
func packed(t testing.TB, name string, kind uint16) []byte {
	t.Helper()
	m := new(mdns.Msg).SetQuestion(mdns.Fqdn(name), kind)
	m.Id = 4711
	m.SetEdns0(1232, true)
	m.IsEdns0().Option = []mdns.EDNS0{&mdns.EDNS0_COOKIE{Code: mdns.EDNS0COOKIE, Cookie: "24a5ac1223344556"}, &mdns.EDNS0_LOCAL{Code: 65001, Data: []byte("secret")}}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func unpack(t testing.TB, b []byte) *mdns.Msg {
	t.Helper()
	m := new(mdns.Msg)
	if err := m.Unpack(b); err != nil {
		t.Fatalf("%x: %v", b, err)
	}
	return m
}

// short is an answer in short: its code or its records' data, and the extended error.
func short(m *mdns.Msg) string {
	var parts []string
	for _, rr := range m.Answer {
		parts = append(parts, strings.TrimPrefix(rr.String(), rr.Header().String()))
	}
	if len(parts) == 0 {
		parts = append(parts, mdns.RcodeToString[m.Rcode])
	}
	if opt := m.IsEdns0(); opt != nil {
		for _, o := range opt.Option {
			if e, ok := o.(*mdns.EDNS0_EDE); ok {
				parts = append(parts, fmt.Sprintf("EDE %d: %s", e.InfoCode, e.ExtraText))
			}
		}
	}
	return strings.Join(parts, ", ")
}

// TestQueries: what is answered here, and with what. Where want begins with '>', a
// nameserver is asked.
func TestQueries(t *testing.T) {
	const list = "allow a.example:443\nallow *.b.example\ndeny x.b.example"
	for _, tt := range []struct {
		policy, name string
		kind         uint16
		want         string
	}{
		{list, "a.example", mdns.TypeA, "198.18.0.1"},
		{list, "A.Example", mdns.TypeAAAA, "fd3b:91c7:5e2a:1::1"},
		{list, "a.example", mdns.TypeTXT, "NOERROR"},
		{list, "a.example", mdns.TypeHTTPS, ">"},
		{list, "a.example", mdns.TypeMX, "NOERROR"},
		{list, "z.b.example", mdns.TypeA, "198.18.0.1"},
		{list, "b.example", mdns.TypeA, "NXDOMAIN, EDE 15: no rule allows b.example"},
		{list, "x.b.example", mdns.TypeA, "NXDOMAIN, EDE 15: deny x.b.example"},
		{list, "c.example", mdns.TypeA, "NXDOMAIN, EDE 15: no rule allows c.example"},
		{list, "c.example", mdns.TypeTXT, "NXDOMAIN, EDE 15: no rule allows c.example"},
		{list, strings.Repeat(strings.Repeat("s", 60)+".", 3) + "evil.example", mdns.TypeTXT, "NXDOMAIN, EDE 15: no rule allows " + (strings.Repeat(strings.Repeat("s", 60)+".", 3) + "evil.example")[:185]},
		{list, "c.example", mdns.TypeHTTPS, "NXDOMAIN, EDE 15: no rule allows c.example"},
		{list, "_443._https.a.example", mdns.TypeHTTPS, "NXDOMAIN, EDE 15: no rule allows _443._https.a.example"},
		{list, "b*d.example", mdns.TypeA, "NXDOMAIN, EDE 15: no name of a host"},
		{list, ".", mdns.TypeNS, "NXDOMAIN, EDE 15: no name of a host"},
		{list, "1.0.18.198.in-addr.arpa", mdns.TypePTR, "first.example."},
		{list, "9.0.18.198.in-addr.arpa", mdns.TypePTR, "NXDOMAIN"},
		{list, "8.8.8.8.in-addr.arpa", mdns.TypePTR, "NXDOMAIN"},
		{list, "secret.in-addr.arpa", mdns.TypePTR, "NXDOMAIN"},
		{list, "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.a.2.e.5.7.c.1.9.b.3.d.f.ip6.arpa", mdns.TypePTR, "first.example."},
		{list, "1.0.0.0.ip6.arpa", mdns.TypePTR, "NXDOMAIN"},
		{list + "\ndns any", "a.example", mdns.TypeTXT, ">"},
		{list + "\ndns any", "c.example", mdns.TypeTXT, "NXDOMAIN, EDE 15: no rule allows c.example"},
		{list + "\nnames pin", "a.example", mdns.TypeA, ">"},
		{list + "\nnames pin", "c.example", mdns.TypeA, "NXDOMAIN, EDE 15: no rule allows c.example"},
		{list + "\nlearn", "c.example", mdns.TypeA, "198.18.0.1"},
		{list + "\ndeny dns", "a.example", mdns.TypeA, "NXDOMAIN, EDE 15: deny dns"},
		{"deny evil.example", "c.example", mdns.TypeA, "198.18.0.1"},
	} {
		q := questions()
		p := parsed(t, tt.policy)
		if strings.HasSuffix(tt.name, ".arpa") {
			bind(t, q.Names, "first.example")
		}
		query := packed(t, tt.name, tt.kind)
		got := q.Ask(p, query, false, 0)
		if tt.want == ">" {
			m := unpack(t, got.Upstream)
			if got.Answer != nil || len(m.Question) != 1 || m.Question[0].Name != strings.ToLower(mdns.Fqdn(tt.name)) || m.Question[0].Qtype != tt.kind ||
				len(m.IsEdns0().Option) > 0 || m.IsEdns0().Do() || !m.RecursionDesired {
				t.Errorf("%q: %s %d asks upstream %v", tt.policy, tt.name, tt.kind, m)
			}
			continue
		}
		if got.Upstream != nil {
			t.Errorf("%q: %s %d asks upstream", tt.policy, tt.name, tt.kind)
			continue
		}
		m := unpack(t, got.Answer)
		if m.Id != 4711 || !m.Response || m.Question[0].Name != mdns.Fqdn(tt.name) || short(m) != tt.want {
			t.Errorf("%q: %s %d: %s, want %s", tt.policy, tt.name, tt.kind, short(m), tt.want)
		}
	}
}

// Without IPv6 a name has no such address.
func TestQueriesIPv4Only(t *testing.T) {
	q := questions()
	q.IPv6 = false
	m := unpack(t, q.Ask(parsed(t, "allow a.example"), packed(t, "a.example", mdns.TypeAAAA), false, 0).Answer)
	if got := short(m); got != "NOERROR" {
		t.Error(got)
	}
}

// Odd messages are answered as a resolver does, and never go further.
func TestOddQueries(t *testing.T) {
	good := packed(t, "a.example", mdns.TypeA)
	change := func(f func(b []byte)) []byte {
		b := bytes.Clone(good)
		f(b)
		return b
	}
	for name, tt := range map[string]struct {
		query []byte
		want  string
	}{
		"notify":       {change(func(b []byte) { b[2] |= 4 << 3 }), "NOTIMP"},
		"two":          {change(func(b []byte) { b[5] = 2 }), "FORMERR"},
		"none":         {change(func(b []byte) { b[5] = 0 }), "FORMERR"},
		"chaos":        {change(func(b []byte) { b[12+len("a.example")+2+2+1] = 3 }), "REFUSED"},
		"transfer":     {packed(t, "a.example", mdns.TypeAXFR), "REFUSED"},
		"dot in label": {[]byte{0, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 3, 'a', '.', 'b', 0, 0, 1, 0, 1}, "FORMERR"},
	} {
		got := questions().Ask(parsed(t, "allow a.example\ndns any"), tt.query, false, 0)
		if got.Upstream != nil || short(unpack(t, got.Answer)) != tt.want {
			t.Errorf("%s: %x", name, got.Answer)
		}
	}
	for _, b := range [][]byte{nil, {1, 2, 3}, change(func(b []byte) { b[2] |= 0x80 })} {
		if got := questions().Ask(parsed(t, "dns any"), b, false, 0); got.Answer != nil || got.Upstream != nil {
			t.Errorf("%x is answered", b)
		}
	}
}

// reply is a nameserver's answer with records in text.
func reply(t testing.TB, name string, kind uint16, records ...string) []byte {
	t.Helper()
	m := new(mdns.Msg).SetQuestion(mdns.Fqdn(name), kind)
	m.Response, m.RecursionAvailable = true, true
	for _, s := range records {
		rr, err := mdns.NewRR(s)
		if err != nil {
			t.Fatal(err)
		}
		m.Answer = append(m.Answer, rr)
	}
	m.Extra = append(m.Extra, &mdns.A{Hdr: mdns.RR_Header{Name: "extra.example.", Rrtype: mdns.TypeA, Class: mdns.ClassINET}, A: []byte{10, 0, 0, 1}})
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestServicesAreCleaned: what hides names or leads past them is taken out.
func TestServicesAreCleaned(t *testing.T) {
	p := parsed(t, "allow a.example\nallow c.example")
	for record, want := range map[string]string{
		`a.example. 60 IN HTTPS 1 . alpn="h3,h2" ipv4hint="10.0.0.1" ech="AEX+DQA=" ipv6hint="::1"`: `1 . alpn="h3,h2"`,
		`a.example. 60 IN HTTPS 1 . mandatory="alpn,ech" alpn="h3" ech="AEX+DQA="`:                  `1 . mandatory="alpn" alpn="h3"`,
		`a.example. 60 IN HTTPS 1 . mandatory="ipv4hint" ipv4hint="192.0.2.1" port="8443"`:          `1 . port="8443"`,
		`a.example. 60 IN HTTPS 1 c.example. alpn="h2"`:                                             `1 c.example. alpn="h2"`,
		`a.example. 60 IN HTTPS 0 evil.example.`:                                                    `NOERROR`,
		`b.example. 60 IN HTTPS 1 . alpn="h2"`:                                                      `NOERROR`,
	} {
		got := questions().Ask(p, packed(t, "a.example", mdns.TypeHTTPS), false, 0)
		m := unpack(t, got.Finish(reply(t, "a.example", mdns.TypeHTTPS, record), 0))
		if short(m) != want || m.Id != 4711 {
			t.Errorf("%s became %s, want %s", record, short(m), want)
		}
		for _, rr := range m.Extra {
			if rr.Header().Rrtype != mdns.TypeOPT {
				t.Errorf("the answer has %v", rr)
			}
		}
	}
}

// TestPinnedAnswers: real addresses, under the name asked for, but none that the name may
// not lead to; each is allowed for its name as long as it lives.
func TestPinnedAnswers(t *testing.T) {
	p := parsed(t, "names pin\nallow a.example\nallow b.example\nallow 10.1.0.0/16:443\ndeny 203.0.113.9")
	q := questions()
	ask := func(name string, records ...string) string {
		got := q.Ask(p, packed(t, name, mdns.TypeA), false, 0)
		return short(unpack(t, got.Finish(reply(t, name, mdns.TypeA, records...), time.Second)))
	}
	got := ask("a.example", "A.example. 100 IN CNAME cdn.example.net.", "cdn.example.net. 5 IN A 203.0.113.1",
		"cdn.example.net. 5 IN A 10.0.0.1", "cdn.example.net. 5 IN A 10.1.0.1", "cdn.example.net. 5 IN A 169.254.169.254",
		"cdn.example.net. 5 IN A 127.0.0.1", "cdn.example.net. 5 IN A 203.0.113.9", "other.example. 5 IN A 203.0.113.2")
	if got != "203.0.113.1, 10.1.0.1" {
		t.Errorf("answered %s", got)
	}
	ask("b.example", "b.example. 3600 IN A 203.0.113.1")
	shared := netip.MustParseAddr("203.0.113.1")
	for now, want := range map[time.Duration]string{2 * time.Second: "[a.example b.example]", 30 * time.Second: "[a.example b.example]", time.Minute: "[b.example]"} {
		x := questions().Pins
		*x = Pins{addrs: map[netip.Addr][]pin{shared: append([]pin(nil), q.Pins.addrs[shared]...)}}
		if got := fmt.Sprint(x.Names(shared, now)); got != want {
			t.Errorf("at %v: %v, want %v", now, got, want)
		}
	}
	if names := q.Pins.Names(netip.MustParseAddr("10.0.0.1"), 0); names != nil {
		t.Errorf("10.0.0.1 is pinned for %v", names)
	}
}

// TestReadReply: addresses at the end of aliases, and no others.
func TestReadReply(t *testing.T) {
	for name, tt := range map[string]struct {
		records []string
		want    string
		ttl     time.Duration
	}{
		"plain":     {[]string{"a.example. 60 IN A 192.0.2.1", "a.example. 50 IN A 192.0.2.2"}, "[192.0.2.1 192.0.2.2]", 50 * time.Second},
		"chain":     {[]string{"c.example. 60 IN A 192.0.2.1", "a.example. 7 IN CNAME b.example.", "b.example. 8 IN CNAME C.example."}, "[192.0.2.1]", 7 * time.Second},
		"loop":      {[]string{"a.example. 7 IN CNAME b.example.", "b.example. 8 IN CNAME a.example."}, "[]", 7 * time.Second},
		"unrelated": {[]string{"b.example. 7 IN A 192.0.2.1"}, "[]", time.Duration(1<<31-1) * time.Second},
	} {
		r, ok := ReadReply(reply(t, "a.example", mdns.TypeA, tt.records...), "a.example", 1)
		if !ok || fmt.Sprint(r.Addrs) != tt.want || r.TTL != tt.ttl {
			t.Errorf("%s: %+v, %v", name, r, ok)
		}
	}
}

// FuzzQueries: any query under any kind of policy is answered, or asked afresh, without
// anything else of the guest's; and any response makes an answer that can be read.
func FuzzQueries(f *testing.F) {
	f.Add(packed(f, "a.example", mdns.TypeA), reply(f, "a.example", mdns.TypeA, "a.example. 1 IN A 192.0.2.1"), uint8(0))
	f.Add(packed(f, "a.example", mdns.TypeHTTPS), reply(f, "a.example", mdns.TypeHTTPS, `a.example. 60 IN HTTPS 1 . mandatory="alpn,ech" alpn="h3" ech="AEX+DQA="`), uint8(1))
	f.Add(packed(f, "c.example", mdns.TypeTXT), []byte{}, uint8(2))
	policies := []*Policy{parsed(f, "allow a.example"), parsed(f, "allow a.example\ndns any"), parsed(f, "names pin\nallow *.example"), parsed(f, "learn\nallow a.example")}
	f.Fuzz(func(t *testing.T, query, response []byte, n uint8) {
		p := policies[int(n)%len(policies)]
		got := questions().Ask(p, query, n&0x80 != 0, 0)
		answer := got.Answer
		if got.Upstream != nil {
			m := unpack(t, got.Upstream)
			if c, err := Canonical(m.Question[0].Name); err != nil || c != got.Name || len(got.Upstream) != 12+len(c)+2+4+11 {
				t.Fatalf("%x asks %x", query, got.Upstream)
			}
			if answer != nil {
				t.Fatal("both an answer and a question")
			}
			answer = got.Finish(response, 0)
		}
		if answer == nil {
			if len(query) >= 12 && query[2]&0x80 == 0 {
				t.Fatalf("no answer to %x", query)
			}
			return
		}
		m := unpack(t, answer)
		if !bytes.Equal(answer[:2], query[:2]) || !m.Response {
			t.Errorf("%x is answered with %v", query, m)
		}
		if limit := 1232; n&0x80 == 0 && len(answer) > limit {
			t.Errorf("an answer of %d bytes", len(answer))
		}
	})
}
