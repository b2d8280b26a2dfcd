package test

import (
	"encoding/binary"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// rawQuery is a query for a name of these labels, whatever is in them.
func rawQuery(id uint16, kind uint16, labels ...string) []byte {
	b := binary.BigEndian.AppendUint16(nil, id)
	b = append(b, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0)
	for _, l := range labels {
		b = append(append(b, byte(len(l))), l...)
	}
	b = binary.BigEndian.AppendUint16(append(b, 0), kind)
	return append(b, 0, 1)
}

// TestPolicyHostileNames: whatever stands in a query, by UDP and by TCP, to either address
// of the resolver, nameservers are asked for allowed names alone, written plainly.
func TestPolicyHostileNames(t *testing.T) {
	t.Parallel()
	p := underPolicy(t, "allow good.example\nallow *.wild.example\nallow bücher.example\ndns any\n")
	long := strings.Repeat("x", 63)
	names := [][]string{
		{"good", "example"}, {"GOOD", "eXample"}, {"a", "wild", "example"}, {"xn--bcher-kva", "example"},
		{"good\x00", "example"}, {"good ", "example"}, {" ", "good", "example"}, {"good.example"}, {"good", "example\x00evil"},
		{"evil", "good", "example"}, {"wild", "example"}, {"a.b", "wild", "example"}, {"\xff\xfe", "wild", "example"}, {"bücher", "example"},
		{"secret data\n", "wild", "example"}, {"-a", "wild", "example"}, {"xn--zzzzzzzzz", "example"}, {"ｇood", "example"},
		{long, long, long, "evil"}, {long, long, "wild", "example"}, {}, {"example"}, {"1", "2", "3", "4"},
		{"1", "0", "0", "127", "in-addr", "arpa"}, {"good", "example", "in-addr", "arpa"},
	}
	for i, labels := range names {
		for _, kind := range []uint16{dns.TypeA, dns.TypeTXT} {
			q := rawQuery(uint16(i), kind, labels...)
			for _, way := range [][2]string{{"udp4", dns4}, {"tcp4", dns4}, {"udp6", dns6}, {"tcp6", dns6}} {
				b, err := p.query(t, way[0], way[1], q, deadline)
				if err != nil {
					t.Fatalf("%q by %v: %v", labels, way, err)
				}
				if len(b) < 12 || binary.BigEndian.Uint16(b) != uint16(i) || b[2]&0x80 == 0 {
					t.Errorf("%q by %v is answered with %x", labels, way, b)
				}
			}
		}
	}
	// A name in one label with a dot in it is asked for as the name that it looks like.
	want := []string{"good.example.", "a.wild.example.", "a.b.wild.example.", "xn--bcher-kva.example.", long + "." + long + ".wild.example."}
	for _, asked := range p.zone.queries() {
		if name, kind, _ := strings.Cut(asked, " "); !slices.Contains(want, name) || kind != "TXT" {
			t.Errorf("a nameserver was asked for %q", asked)
		}
	}
	if len(p.zone.queries()) == 0 {
		t.Error("no nameserver was asked for what is allowed")
	}
}

// TestPolicyManyQueries: however many queries a guest leaves pending with nameservers that
// do not answer, by as many connections as it gets, others are answered.
func TestPolicyManyQueries(t *testing.T) {
	t.Parallel()
	p := underPolicy(t, "allow good.example\nallow silent.example\ndns any\n")
	p.zone.mu.Lock()
	p.zone.silent = "silent.example."
	p.zone.mu.Unlock()
	before := p.usage(t)
	const streams, queries = 200, 40
	for range streams {
		c, err := p.Dial(timeout(t, deadline), "tcp4", net.JoinHostPort(dns4, "53"))
		if err != nil {
			continue // there are only so many
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(deadline))
		for i := range queries {
			if _, err := c.Write(prefixed(rawQuery(uint16(i), dns.TypeTXT, "silent", "example"))); err != nil {
				break // likewise
			}
		}
	}
	if addr, _ := p.find(t, "good.example", dns.TypeA); addr == "" {
		t.Error("good.example has no address")
	}
	if _, rcode := p.find(t, "evil.example", dns.TypeAAAA); rcode != dns.RcodeNameError {
		t.Errorf("evil.example: %s", dns.RcodeToString[rcode])
	}
	now := p.usage(t)
	if now.RSS > before.RSS+programMemory/4 || now.FDs > before.FDs+1000 {
		t.Errorf("the helper holds %+v, before %+v", now, before)
	}
}

// TestPolicyManyNames: however many names a guest asks for, a connection to one goes on, and
// its address stays its own.
func TestPolicyManyNames(t *testing.T) {
	t.Parallel()
	server := serveTCP(t, env.Net.Net, "tcp4", "198.51.100.1:0", echoTCP)
	p := underPolicy(t, "default allow\n")
	p.zone.set("good.example.", "A", "good.example. 60 IN A 198.51.100.1")
	c, err := p.connect(t, "good.example", dns.TypeA, port(server))
	if err != nil {
		t.Fatal(err)
	}
	addr, _ := p.find(t, "good.example", dns.TypeA)
	before := p.usage(t)
	stream := p.dial(t, "tcp4", net.JoinHostPort(dns4, "53"))
	const names, atOnce = 20_000, 10
	for i := 0; i < names; i += atOnce {
		for j := range atOnce {
			if _, err := stream.Write(prefixed(rawQuery(uint16(j), dns.TypeA, fmt.Sprintf("n%d", i+j), "example"))); err != nil {
				t.Fatal(err)
			}
		}
		for range atOnce {
			if _, err := readPrefixed(stream); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := answers(t, c, "still there"); err != nil {
		t.Errorf("a connection: %v", err)
	}
	if again, _ := p.find(t, "good.example", dns.TypeA); again != addr {
		t.Errorf("its name had %s and has %s", addr, again)
	}
	if now := p.usage(t); now.RSS > before.RSS+programMemory/4 {
		t.Errorf("the helper holds %+v, before %+v", now, before)
	}
}
