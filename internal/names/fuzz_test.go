package names

import (
	"bytes"
	"testing"

	mdns "github.com/miekg/dns"
)

// FuzzAnswer feeds queries as guests may compose them. miekg/dns judges the answers.
func FuzzAnswer(f *testing.F) {
	for _, name := range []string{"db.", "sToRe.Web.", "old.dns.podman.", "2.3.90.10.in-addr.arpa.", "nobody.", ".", `a\.b.`} {
		for _, qtype := range []uint16{mdns.TypeA, mdns.TypePTR, mdns.TypeANY, mdns.TypeAXFR} {
			q := query(name, qtype)
			f.Add(pack(f, q), true)
			q.SetEdns0(4096, true)
			f.Add(pack(f, q), false)
		}
	}
	q := pack(f, query("db.", mdns.TypeA))
	for n := range q {
		f.Add(q[:n], true)
	}
	f.Add(append(bytes.Clone(q[:12]), 0xc0, 0x0c, 0, 1, 0, 1), true)           // a name that points to itself
	f.Add(append(bytes.Clone(q[:12]), 0xc0, 0x00, 0, 1, 0, 1), true)           // and one into the header
	f.Add(append(bytes.Clone(q[:12]), bytes.Repeat([]byte{63}, 300)...), true) // one that is too long
	f.Fuzz(func(t *testing.T, query []byte, udp bool) {
		stream, limit := overTCP, 65535
		if udp {
			stream, limit = overUDP, maxPayload
		}
		before := bytes.Clone(query)
		for _, config := range []func(*Config){nil, internal} {
			b, ok := web(config).Answer(query, stream)
			if isQuery := len(query) >= 12 && query[2]&0x80 == 0; config != nil && ok != isQuery {
				t.Errorf("on an internal network, %x is answered: %v", query, ok)
			}
			if !bytes.Equal(query, before) {
				t.Fatal("the query was changed")
			}
			if !ok {
				continue
			}
			a, q := new(mdns.Msg), new(mdns.Msg)
			if err := a.Unpack(b); err != nil {
				t.Fatalf("answer %x to %x: %v", b, query, err)
			}
			if len(b) > limit || !a.Response || !bytes.Equal(b[:2], query[:2]) {
				t.Errorf("answer to %x: %d bytes, %+v", query, len(b), a.MsgHdr)
			}
			readable := q.Unpack(query) == nil && len(q.Question) == 1
			if len(a.Question) == 0 {
				if a.Rcode == mdns.RcodeSuccess || a.Rcode == mdns.RcodeNameError {
					t.Errorf("answer to %x has no question: %v", query, a)
				}
			} else if readable && a.Question[0] != q.Question[0] {
				t.Errorf("answer to %v repeats %v", q.Question, a.Question)
			}
		}
	})
}
