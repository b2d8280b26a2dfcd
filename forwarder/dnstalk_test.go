package forwarder

import (
	"bytes"
	"net/netip"
	"testing"
	"time"

	"github.com/miekg/dns"

	"epiphyte/internal/flow"
	"epiphyte/internal/sockio"
	"epiphyte/internal/testnet"
	"epiphyte/stack"
)

// dnsMessage is a query with one question, or the response to it.
func dnsMessage(id uint16, response bool, name string) []byte {
	b := []byte{byte(id >> 8), byte(id), 1, 0, 0, 1, 0, 0, 0, 0, 0, 0}
	for _, label := range bytes.Split([]byte(name), []byte(".")) {
		b = append(append(b, byte(len(label))), label...)
	}
	b = append(b, 0, 0, 1, 0, 1)
	if response {
		b[2] |= 0x80
		b[7] = 1
		b = append(b, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 1)
	}
	return b
}

func question(id uint16, name string) []byte { return dnsMessage(id, false, name) }
func answer(id uint16, name string) []byte   { return dnsMessage(id, true, name) }

// TestB25_DNSMappingExpiry: a mapping is forgotten soon only after its queries, one
// or a few, have had their answers. All else keeps it as long as any other.
func TestB25_DNSMappingExpiry(t *testing.T) {
	const short, long = 10 * time.Second, 240 * time.Second
	two := append(question(1, "a.example"), 0, 0, 1, 0, 1)
	two[5] = 2
	for _, tt := range []struct {
		name    string
		sent    [][]byte
		replies [][]byte
		lives   time.Duration
	}{
		{"a query with its answer", [][]byte{question(1, "a.example")}, [][]byte{answer(1, "a.example")}, short},
		{"two of them", [][]byte{question(1, "a.example"), question(2, "b.example")}, [][]byte{answer(2, "b.example"), answer(1, "a.example")}, short},
		{"an answer twice", [][]byte{question(1, "a.example"), question(1, "a.example")}, [][]byte{answer(1, "a.example"), answer(1, "a.example")}, short},
		{"no answer", [][]byte{question(1, "a.example")}, nil, long},
		{"one answer of two", [][]byte{question(1, "a.example"), question(2, "b.example")}, [][]byte{answer(1, "a.example")}, long},
		{"an answer of another id", [][]byte{question(1, "a.example")}, [][]byte{answer(2, "a.example")}, long},
		{"an answer to another question", [][]byte{question(1, "a.example")}, [][]byte{answer(1, "b.example")}, long},
		{"the query comes back", [][]byte{question(1, "a.example")}, [][]byte{question(1, "a.example")}, long},
		{"five at once", [][]byte{question(1, "a"), question(2, "a"), question(3, "a"), question(4, "a"), question(5, "a")},
			[][]byte{answer(1, "a"), answer(2, "a"), answer(3, "a"), answer(4, "a"), answer(5, "a")}, long},
		{"two questions", [][]byte{two}, [][]byte{answer(1, "a.example")}, long},
		{"a VPN", [][]byte{bytes.Repeat([]byte{0x38}, 54)}, [][]byte{bytes.Repeat([]byte{0x40}, 66)}, long},
		{"a query, then a VPN", [][]byte{question(1, "a.example"), []byte("hello")}, [][]byte{answer(1, "a.example")}, long},
		{"shorter than a header", [][]byte{{1}}, [][]byte{{1}}, long},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, setup{})
			guest, server := at(guest4, 4000), at(gateway4, 53)
			for _, b := range tt.sent {
				r.send(testnet.UDP(guest, server, 64, b))
			}
			m := r.flows(flow.Mapping)[0].Owner.(*mapping)
			var from sockio.Addr
			from.Set(netip.MustParseAddrPort("127.0.0.1:53"))
			for _, b := range tt.replies {
				m.Received(&from, nil, len(b), [][]byte{b})
				if p := r.receive(stack.ProtoUDP); !bytes.Equal(p.Payload[8:], b) {
					t.Errorf("the guest received % x", p.Payload)
				}
			}
			r.pass(tt.lives - time.Millisecond)
			r.wantCounts(counts{Mappings: 1})
			r.pass(time.Millisecond)
			r.wantCounts(counts{})
		})
	}
}

// A mapping that comes to be more than a stub's is kept as such again.
func TestDNSMappingBecomesAnother(t *testing.T) {
	r := newRig(t, setup{})
	guest, server := at(guest4, 4000), at(gateway4, 53)
	r.send(testnet.UDP(guest, server, 64, question(1, "a.example")))
	m := r.flows(flow.Mapping)[0].Owner.(*mapping)
	var from sockio.Addr
	from.Set(netip.MustParseAddrPort("127.0.0.1:53"))
	reply := answer(1, "a.example")
	m.Received(&from, nil, len(reply), [][]byte{reply})
	r.pass(mappingIdleDNS - time.Second)
	r.send(testnet.UDP(guest, server, 64, []byte("not DNS")))
	m.Received(&from, nil, len(reply), [][]byte{reply})
	r.pass(mappingIdle - time.Second)
	r.wantCounts(counts{Mappings: 1})
	r.pass(time.Second)
	r.wantCounts(counts{})
}

func TestDNSTalkAllocatesNothing(t *testing.T) {
	f := New(Config{})
	var talk dnsTalk
	b := append(make([]byte, 8), question(1, "a.example")...)
	b[3] = 53
	p := &stack.Packet{Head: b}
	reply := answer(1, "a.example")
	if n := testing.AllocsPerRun(100, func() { talk.sent(f.seed, p); talk.received(f.seed, reply) }); n != 0 || !talk.over() {
		t.Errorf("%v allocations; over: %v", n, talk.over())
	}
}

// FuzzParseQuestion: a query that is recognised is recognised in its answer, and asks
// one question in another parser's reading, too.
func FuzzParseQuestion(f *testing.F) {
	f.Add(question(1, "a.example"))
	f.Add(answer(1, "a.example"))
	f.Add(question(1, ""))
	f.Add([]byte{})
	seed := New(Config{}).seed
	f.Fuzz(func(t *testing.T, b []byte) {
		q, ok := parseQuestion(seed, b, false)
		if _, both := parseQuestion(seed, b, true); ok && both {
			t.Errorf("%x is a query and a response", b)
		}
		var m dns.Msg
		if err := m.Unpack(b); ok && err == nil && (len(m.Question) != 1 || m.Response || m.Opcode != dns.OpcodeQuery || m.Id != q.id) {
			t.Errorf("%x is recognised as a query: %v", b, m)
		}
		if !ok {
			return
		}
		b[2] |= 0x80
		if r, ok := parseQuestion(seed, b, true); !ok || r != q {
			t.Errorf("the response to %+v is %+v", q, r)
		}
	})
}
