package names

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	mdns "github.com/miekg/dns"
)

func TestAnswer(t *testing.T) {
	const v6 = "3.0.0.0.0.0.0.0.0.0.0.0.0.9.d.f.ip6.arpa."
	host := func(n int) string { return fmt.Sprintf("%x.%s", n, strings.Repeat("0.", 15)) + v6 }
	for _, tc := range []struct {
		name           string
		qtype          uint16
		want, internal string // internal: on an internal network, if it differs
	}{
		{"db.", mdns.TypeA, "NOERROR 10.90.3.2", ""},
		{"db.", mdns.TypeAAAA, "NOERROR fd90:0:0:3::2", ""},
		{"DB.", mdns.TypeA, "NOERROR 10.90.3.2", ""},
		{"db.web.", mdns.TypeA, "NOERROR 10.90.3.2", ""},
		{"dB.WEB.", mdns.TypeA, "NOERROR 10.90.3.2", ""},
		{"db.dns.podman.", mdns.TypeA, "NOERROR 10.90.3.2", ""},
		{"db.example.com.", mdns.TypeA, "NOERROR 10.90.3.2", ""},
		{"db.example.com.web.", mdns.TypeA, "NOERROR 10.90.3.2", ""},
		{"a_b.", mdns.TypeA, "NOERROR 10.90.3.2", ""},
		{"store.", mdns.TypeA, "NOERROR 10.90.3.2 10.90.3.3", ""},
		{"store.web.", mdns.TypeAAAA, "NOERROR fd90:0:0:3::2 fd90:0:0:3::3", ""},
		{"db.", mdns.TypeANY, "NOERROR 10.90.3.2 fd90:0:0:3::2", ""},
		{"_gateway.", mdns.TypeA, "NOERROR 10.90.3.1", ""},
		{"_gateway.web.", mdns.TypeAAAA, "NOERROR fd90:0:0:3::1", ""},

		// A known name without the type asked.
		{"old.", mdns.TypeAAAA, "NOERROR soa .", ""},
		{"old.web.", mdns.TypeAAAA, "NOERROR soa web.", ""},
		{"Old.Web.", mdns.TypeMX, "NOERROR soa Web.", ""},
		{"old.dns.podman.", mdns.TypeSRV, "NOERROR soa dns.podman.", ""},
		{"db.", mdns.TypeHTTPS, "NOERROR soa .", ""},
		{"db.", mdns.TypePTR, "NOERROR soa .", ""},
		{"db.", mdns.TypeSOA, "NOERROR soa .", ""},
		{"db.", mdns.TypeAXFR, "REFUSED", ""},

		// Names of others.
		{"example.com.", mdns.TypeA, "forward", "NOERROR soa ."}, // db.example.com exists
		{"www.example.com.", mdns.TypeA, "forward", "NXDOMAIN soa ."},
		{"nobody.", mdns.TypeA, "forward", "NXDOMAIN soa ."},
		{"nobody.web.", mdns.TypeA, "forward", "NXDOMAIN soa web."},
		{"x.db.", mdns.TypeA, "forward", "NXDOMAIN soa ."},
		{"x.db.web.", mdns.TypeA, "forward", "NXDOMAIN soa web."},
		{"db.com.", mdns.TypeA, "forward", "NXDOMAIN soa ."},
		{"web.", mdns.TypeA, "forward", "NOERROR soa web."},
		{".", mdns.TypeNS, "forward", "NOERROR soa ."},
		{"podman.", mdns.TypeA, "forward", "NOERROR soa ."},

		// The domain that is ours as a whole.
		{"dns.podman.", mdns.TypeNS, "NOERROR soa dns.podman.", ""},
		{"dns.podman.", mdns.TypeSOA, "NOERROR _gateway.web. nobody.invalid. 1 3600 1200 604800 0", ""},
		{"com.dns.podman.", mdns.TypeA, "NOERROR soa dns.podman.", ""},
		{"nobody.dns.podman.", mdns.TypeA, "NXDOMAIN soa dns.podman.", ""},
		{"x.db.dns.podman.", mdns.TypeA, "NXDOMAIN soa dns.podman.", ""},

		// Reverse names.
		{"2.3.90.10.in-addr.arpa.", mdns.TypePTR, "NOERROR Db.web.", ""},
		{"2.3.90.10.IN-ADDR.arpa.", mdns.TypePTR, "NOERROR Db.web.", ""},
		{"3.3.90.10.in-addr.arpa.", mdns.TypePTR, "NOERROR cache.web.", ""},
		{"1.3.90.10.in-addr.arpa.", mdns.TypePTR, "NOERROR _gateway.web.", ""},
		{"2.3.90.10.in-addr.arpa.", mdns.TypeA, "NOERROR soa 3.90.10.in-addr.arpa.", ""},
		{"2.3.90.10.in-addr.arpa.", mdns.TypeANY, "NOERROR Db.web.", ""},
		{"99.3.90.10.in-addr.arpa.", mdns.TypePTR, "NXDOMAIN soa 3.90.10.in-addr.arpa.", ""},
		{"02.3.90.10.in-addr.arpa.", mdns.TypePTR, "NXDOMAIN soa 3.90.10.in-addr.arpa.", ""},
		{"b._dns-sd._udp.0.3.90.10.in-addr.arpa.", mdns.TypePTR, "NXDOMAIN soa 3.90.10.in-addr.arpa.", ""},
		{"3.90.10.in-addr.arpa.", mdns.TypePTR, "NOERROR soa 3.90.10.in-addr.arpa.", ""},
		{"90.10.in-addr.arpa.", mdns.TypePTR, "forward", "NOERROR soa ."},
		{"2.4.90.10.in-addr.arpa.", mdns.TypePTR, "forward", "NXDOMAIN soa ."},
		{host(2), mdns.TypePTR, "NOERROR Db.web.", ""},
		{strings.ToUpper(host(2)), mdns.TypePTR, "NOERROR Db.web.", ""},
		{host(1), mdns.TypePTR, "NOERROR _gateway.web.", ""},
		{host(9), mdns.TypePTR, "NXDOMAIN soa " + v6, ""},
		{"0.0.0.0.0.0.0.0." + v6, mdns.TypePTR, "NOERROR soa " + v6, ""},
		{"1." + strings.Repeat("0.", 15+14) + "8.e.f.ip6.arpa.", mdns.TypePTR, "forward", "NXDOMAIN soa ."},
	} {
		for _, network := range []struct {
			config func(*Config)
			want   string
		}{{nil, tc.want}, {internal, tc.internal}} {
			if network.want == "" {
				network.want = tc.want
			}
			q := query(tc.name, tc.qtype)
			a := answer(t, web(network.config), q, overUDP)
			if got := text(a); got != network.want {
				t.Errorf("%s %s (internal: %v): %s, want %s", tc.name, mdns.TypeToString[tc.qtype], network.config != nil, got, network.want)
			}
			if a == nil {
				continue
			}
			for _, rr := range a.Answer {
				if rr.Header().Name != tc.name {
					t.Errorf("%s is answered as %s", tc.name, rr.Header().Name)
				}
			}
			if authority := a.Rcode == mdns.RcodeSuccess || a.Rcode == mdns.RcodeNameError; a.Authoritative != authority {
				t.Errorf("%s %s: AA is %v", tc.name, mdns.TypeToString[tc.qtype], a.Authoritative)
			}
		}
	}
}

func TestQueriesThatAreNotPlain(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*mdns.Msg)
		ours   string // for a name of ours
		others string // for another name
		none   string // for another name on an internal network
	}{
		{"class CHAOS", func(q *mdns.Msg) { q.Question[0].Qclass = mdns.ClassCHAOS }, "REFUSED", "forward", "REFUSED"},
		{"class ANY", func(q *mdns.Msg) { q.Question[0].Qclass = mdns.ClassANY }, "REFUSED", "forward", "REFUSED"},
		{"UPDATE", func(q *mdns.Msg) { q.Opcode = mdns.OpcodeUpdate }, "NOTIMP", "forward", "NOTIMP"},
		{"NOTIFY", func(q *mdns.Msg) { q.Opcode = mdns.OpcodeNotify }, "NOTIMP", "forward", "NOTIMP"},
		{"EDNS version 1", func(q *mdns.Msg) { q.SetEdns0(4096, true); q.IsEdns0().SetVersion(1) }, "BADVERS", "forward", "BADVERS"},
		{"two OPT", func(q *mdns.Msg) { q.SetEdns0(4096, true); q.Extra = append(q.Extra, q.Extra[0]) }, "FORMERR", "forward", "FORMERR"},
		{"no recursion", func(q *mdns.Msg) { q.RecursionDesired = false }, "NOERROR 10.90.3.2", "forward", "NXDOMAIN soa ."},
		{"CD", func(q *mdns.Msg) { q.CheckingDisabled = true }, "NOERROR 10.90.3.2", "forward", "NXDOMAIN soa ."},
		{"a cookie", func(q *mdns.Msg) {
			q.SetEdns0(1400, false)
			q.IsEdns0().Option = append(q.IsEdns0().Option, &mdns.EDNS0_COOKIE{Code: mdns.EDNS0COOKIE, Cookie: "0123456789abcdef"})
		}, "NOERROR 10.90.3.2", "forward", "NXDOMAIN soa ."},
	} {
		for _, asked := range []struct {
			table *Table
			name  string
			want  string
		}{{web(nil), "db.", tc.ours}, {web(nil), "other.example.", tc.others}, {web(internal), "other.example.", tc.none}} {
			q := query(asked.name, mdns.TypeA)
			tc.change(q)
			a := answer(t, asked.table, q, overUDP)
			got := text(a)
			if a != nil && a.Rcode == mdns.RcodeBadVers {
				got = "BADVERS" // BADSIG has the same number
			}
			if got != asked.want {
				t.Errorf("%s, %s: %s, want %s", tc.name, asked.name, got, asked.want)
			}
			if a == nil {
				continue
			}
			if a.RecursionDesired != q.RecursionDesired || a.CheckingDisabled != q.CheckingDisabled {
				t.Errorf("%s, %s: header %+v", tc.name, asked.name, a.MsgHdr)
			}
			if (a.IsEdns0() != nil) != (q.IsEdns0() != nil) {
				t.Errorf("%s, %s: OPT record is %v", tc.name, asked.name, a.IsEdns0())
			}
		}
	}
}

func TestEDNS(t *testing.T) {
	for _, do := range []bool{false, true} {
		q := query("db.", mdns.TypeA)
		q.SetEdns0(512, do)
		opt := answer(t, web(nil), q, overUDP).IsEdns0()
		if opt == nil || opt.UDPSize() != maxPayload || opt.Version() != 0 || opt.Do() != do || len(opt.Option) != 0 {
			t.Errorf("asked with DO %v: %v", do, opt)
		}
	}
}

// TestUnreadable asks what has no name that could be anybody's.
func TestUnreadable(t *testing.T) {
	two := query("db.", mdns.TypeA)
	two.Question = append(two.Question, two.Question[0])
	none := query("db.", mdns.TypeA)
	none.Question = nil
	update := query("db.", mdns.TypeA)
	update.Question, update.Opcode = nil, mdns.OpcodeUpdate
	for _, tc := range []struct {
		name  string
		query []byte
		want  int // on an internal network; -1: no answer there either
	}{
		{"two questions", pack(t, two), mdns.RcodeFormatError},
		{"no question", pack(t, none), mdns.RcodeFormatError},
		{"no question of an UPDATE", pack(t, update), mdns.RcodeNotImplemented},
		{"cut", pack(t, query("db.", mdns.TypeA))[:14], mdns.RcodeFormatError},
		{"dot in a label", pack(t, query(`a\.b.`, mdns.TypeA)), mdns.RcodeFormatError},
		{"short", make([]byte, 11), -1},
		{"a response", pack(t, new(mdns.Msg).SetReply(query("db.", mdns.TypeA))), -1},
	} {
		if b, ok := web(nil).Answer(tc.query, overUDP); ok {
			t.Errorf("%s: answered by %x", tc.name, b)
		}
		b, ok := web(internal).Answer(tc.query, overUDP)
		a := new(mdns.Msg)
		if ok != (tc.want >= 0) {
			t.Errorf("%s, internal: answered is %v", tc.name, ok)
		} else if ok && (a.Unpack(b) != nil || a.Rcode != tc.want || string(b[:2]) != string(tc.query[:2])) {
			t.Errorf("%s, internal: %v", tc.name, a)
		}
	}
}

// TestMalformedBehindTheQuestion: a name of ours stays here even so.
func TestMalformedBehindTheQuestion(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func([]byte) []byte
	}{
		{"cut OPT", func(q []byte) []byte { return q[:len(q)-3] }},
		{"no OPT where one is announced", func(q []byte) []byte { return q[:len(q)-11] }},
		{"OPT longer than the message", func(q []byte) []byte { q[len(q)-1] = 9; return q }},
		{"no answer where one is announced", func(q []byte) []byte { q[7] = 1; return q[:len(q)-11] }},
	} {
		for name, want := range map[string]string{"db.": "FORMERR", "other.": "forward"} {
			q := query(name, mdns.TypeA)
			q.SetEdns0(1232, false)
			got, a := "forward", new(mdns.Msg)
			if b, ok := web(nil).Answer(tc.change(pack(t, q)), overUDP); ok {
				if err := a.Unpack(b); err != nil {
					t.Fatal(err)
				}
				got = text(a)
			}
			if got != want {
				t.Errorf("%s, %s: %s, want %s", tc.name, name, got, want)
			}
		}
	}
}

// TestSize asks for more addresses than an answer over UDP may have.
func TestSize(t *testing.T) {
	table := New(Config{Network: "web"})
	const members = 200
	for i := range members {
		table.Add(fmt.Sprint(i), Member{Name: "many", Addrs: []netip.Addr{netip.AddrFrom4([4]byte{10, 90, 3, byte(i)})}})
	}
	for _, tc := range []struct {
		name   string
		size   uint16 // 0: without EDNS
		stream bool
		limit  int
		whole  bool
		atMost int // bytes that may be left
	}{
		{"no EDNS", 0, overUDP, 512, false, 15},
		{"EDNS 100", 100, overUDP, 512, false, 15},
		{"EDNS 800", 800, overUDP, 800, false, 15},
		{"EDNS 4096", 4096, overUDP, maxPayload, false, 15},
		{"TCP", 0, overTCP, 65535, true, 65535},
	} {
		q := query("many.web.", mdns.TypeA)
		if tc.size > 0 {
			q.SetEdns0(tc.size, false)
		}
		b, ok := table.Answer(pack(t, q), tc.stream)
		if n := len(b); !ok || n > tc.limit || n < tc.limit-tc.atMost {
			t.Errorf("%s: answer of %d bytes", tc.name, n)
		}
		a := answer(t, table, q, tc.stream)
		if a.Truncated == tc.whole || (len(a.Answer) == members) != tc.whole || (a.IsEdns0() == nil) != (tc.size == 0) {
			t.Errorf("%s: %d addresses, TC %v, OPT %v", tc.name, len(a.Answer), a.Truncated, a.IsEdns0())
		}
	}
}

// TestSOAWithoutRoom has names so long that not even an empty answer fits.
func TestSOAWithoutRoom(t *testing.T) {
	long := func(letter string) string { return strings.Repeat(strings.Repeat(letter, 59)+".", 4) }
	table := New(Config{Network: strings.TrimSuffix(long("w"), ".")})
	q := query(long("n")+"dns.podman.", mdns.TypeA)
	if a := answer(t, table, q, overUDP); text(a) != "NXDOMAIN" || !a.Truncated {
		t.Errorf("over UDP: %v", a)
	}
	if a := answer(t, table, q, overTCP); text(a) != "NXDOMAIN soa dns.podman." || a.Truncated {
		t.Errorf("over TCP: %v", a)
	}
}

// TestRotation asks as clients do, for both families by turns.
func TestRotation(t *testing.T) {
	table := web(nil)
	for _, n := range []string{"5", "6"} {
		table.Add(n, Member{Aliases: []string{"store"}, Addrs: addrs("10.90.3."+n, "fd90:0:0:3::"+n)})
	}
	first := make(map[string]int)
	for range 40 {
		for _, qtype := range []uint16{mdns.TypeA, mdns.TypeAAAA} {
			list := strings.Fields(text(answer(t, table, query("store.", qtype), overUDP)))[1:]
			first[list[0]]++
			if slices.Sort(list); len(slices.Compact(list)) != 4 {
				t.Fatalf("addresses %v", list)
			}
		}
	}
	if len(first) != 8 {
		t.Errorf("first addresses: %v", first)
	}
	for a, n := range first {
		if n != 10 {
			t.Errorf("%s came first %d times of 40", a, n)
		}
	}
}

// TestForwardingAllocatesNothing: queries that are not ours pass here too.
func TestForwardingAllocatesNothing(t *testing.T) {
	table := web(nil)
	q := pack(t, query("www.example.org.", mdns.TypeA))
	if n := testing.AllocsPerRun(100, func() {
		if _, ok := table.Answer(q, overUDP); ok {
			t.Error("answered")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkAnswer(b *testing.B) {
	for _, name := range []string{"store.web.", "nobody.dns.podman.", "www.example.org."} {
		b.Run(name, func(b *testing.B) {
			table := web(nil)
			q := pack(b, query(name, mdns.TypeA))
			b.ReportAllocs()
			for b.Loop() {
				table.Answer(q, overUDP)
			}
		})
	}
}
