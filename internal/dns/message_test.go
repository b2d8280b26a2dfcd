package dns

import (
	"bytes"
	"encoding/binary"
	"testing"

	mdns "github.com/miekg/dns"
)

func TestAnswersOnlyItsQuestion(t *testing.T) {
	q := query("Name.example.", mdns.TypeA)
	base := func(change func(*mdns.Msg)) []byte {
		a := new(mdns.Msg).SetReply(q)
		change(a)
		return pack(t, a)
	}
	for _, tc := range []struct {
		name string
		resp []byte
		want bool
	}{
		{"same", base(func(*mdns.Msg) {}), true},
		{"other case", base(func(a *mdns.Msg) { a.Question[0].Name = "nAME.example." }), true},
		{"other name", base(func(a *mdns.Msg) { a.Question[0].Name = "nome.example." }), false},
		{"other type", base(func(a *mdns.Msg) { a.Question[0].Qtype = mdns.TypeAAAA }), false},
		{"other class", base(func(a *mdns.Msg) { a.Question[0].Qclass = mdns.ClassCHAOS }), false},
		{"no question", base(func(a *mdns.Msg) { a.Question = nil }), false},
		{"no question, NXDOMAIN", base(func(a *mdns.Msg) { a.Question = nil; a.Rcode = mdns.RcodeNameError }), false},
		{"no question, FORMERR", base(func(a *mdns.Msg) { a.Question = nil; a.Rcode = mdns.RcodeFormatError }), true},
		{"two questions", base(func(a *mdns.Msg) { a.Question = append(a.Question, a.Question[0]) }), false},
		{"a query", pack(t, q), false},
		{"cut", base(func(*mdns.Msg) {})[:20], false},
		{"short", []byte{0, 0, 0x80}, false},
	} {
		if got := answers(tc.resp, pack(t, q)); got != tc.want {
			t.Errorf("%s: %v, want %v", tc.name, got, tc.want)
		}
	}
}

// FuzzMessage feeds both sides' bytes to everything that parses.
func FuzzMessage(f *testing.F) {
	q := query("name.example.", mdns.TypeA)
	q.SetEdns0(1232, true)
	b, err := q.Pack()
	if err != nil {
		f.Fatal(err)
	}
	for n := range len(b) + 1 {
		f.Add(b[:n])
	}
	f.Add(append(bytes.Clone(b[:4]), 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xc0, 0x0c))
	f.Add(append(bytes.Clone(b[:12]), bytes.Repeat([]byte{63}, 300)...))
	f.Fuzz(func(t *testing.T, m []byte) {
		if !isQuery(m) {
			return
		}
		r := servFail(m, binary.BigEndian.Uint16(m))
		if !bytes.Equal(r[:2], m[:2]) || !answers(r, m) || r[3]&maskRcode != mdns.RcodeServerFailure {
			t.Errorf("SERVFAIL to %x is %x", m, r)
		}
		if len(r) > len(m)+11 {
			t.Errorf("SERVFAIL is %d bytes longer than the query", len(r)-len(m))
		}
		answers(m, m)
	})
}
