package dns

import (
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
