package names

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	mdns "github.com/miekg/dns"
)

// How a query came: Answer's stream.
const (
	overUDP = false
	overTCP = true
)

func addrs(list ...string) []netip.Addr {
	var parsed []netip.Addr
	for _, a := range list {
		parsed = append(parsed, netip.MustParseAddr(a))
	}
	return parsed
}

// web is the network of most tests, with two members that share an alias.
func web(change func(*Config)) *Table {
	cfg := Config{
		Network:  "web",
		Gateways: addrs("10.90.3.1", "fd90:0:0:3::1", "fe80::1"),
		Subnets:  []netip.Prefix{netip.MustParsePrefix("10.90.3.0/24"), netip.MustParsePrefix("fd90:0:0:3::/64")},
	}
	if change != nil {
		change(&cfg)
	}
	t := New(cfg)
	t.Add("1", Member{Name: "Db", Hostname: "db.example.com", Aliases: []string{"store", "a_b"}, Addrs: addrs("10.90.3.2", "fd90:0:0:3::2")})
	t.Add("2", Member{Name: "cache", Hostname: "cache", Aliases: []string{"Store"}, Addrs: addrs("10.90.3.3", "fd90:0:0:3::3")})
	t.Add("3", Member{Name: "old", Addrs: addrs("10.90.3.4")})
	return t
}

func internal(cfg *Config) { cfg.Internal = true }

func query(name string, qtype uint16) *mdns.Msg { return new(mdns.Msg).SetQuestion(name, qtype) }

func pack(t testing.TB, m *mdns.Msg) []byte {
	t.Helper()
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// answer returns what the table answers, nil if it leaves the query to others. It
// checks what holds for every answer.
func answer(t testing.TB, table *Table, q *mdns.Msg, stream bool) *mdns.Msg {
	t.Helper()
	b, ok := table.Answer(pack(t, q), stream)
	if !ok {
		return nil
	}
	a := new(mdns.Msg)
	if err := a.Unpack(b); err != nil {
		t.Fatalf("answer to %v: %v", q, err)
	}
	if a.Id != q.Id || !a.Response || !a.RecursionAvailable || a.AuthenticatedData || a.Opcode != q.Opcode {
		t.Errorf("answer to %v has header %+v", q, a.MsgHdr)
	}
	if len(a.Question) != 1 || a.Question[0] != q.Question[0] {
		t.Errorf("answer to %v repeats %v", q.Question, a.Question)
	}
	for _, rr := range append(a.Answer, a.Ns...) {
		if rr.Header().Ttl != 0 || rr.Header().Class != mdns.ClassINET {
			t.Errorf("answer to %v has %v", q, rr)
		}
	}
	return a
}

// text puts an answer into one line: the code, the data of the answer section, and
// the owner of the SOA if there is one in the authority section.
func text(a *mdns.Msg) string {
	if a == nil {
		return "forward"
	}
	s := []string{mdns.RcodeToString[a.Rcode]}
	for _, rr := range a.Answer {
		s = append(s, strings.TrimPrefix(rr.String(), rr.Header().String()))
	}
	for _, rr := range a.Ns {
		if soa, ok := rr.(*mdns.SOA); ok && soa.Minttl == 0 {
			s = append(s, "soa "+soa.Hdr.Name)
		} else {
			s = append(s, fmt.Sprint("unexpected ", rr))
		}
	}
	return strings.Join(s, " ")
}
