package names

import (
	"encoding/binary"
	"errors"
	"math"
	"net/netip"
	"slices"
	"sort"

	"golang.org/x/net/dns/dnsmessage"
)

const (
	// minPayload is what every client takes over UDP: RFC 1035, section 2.3.4.
	minPayload = 512

	// maxPayload is the longest answer over UDP to a client that takes more, and
	// what we say that we take: it passes anywhere unfragmented, DNS flag day 2020.
	maxPayload = 1232

	typeIXFR dnsmessage.Type = 251 // RFC 1995, section 2

	rcodeBadVersion dnsmessage.RCode = 16 // RFC 6891, section 9

	// maskRcode is for the bits of a code that go into the header.
	maskRcode dnsmessage.RCode = 0x0f
)

var errManyOPT = errors.New("more than one OPT record")

// Answer answers a query from the table. ok is false for a query that nameservers are to
// answer, and for a message that is no query. With stream it came over TCP, and an answer may
// have any length. The next call overwrites answer; query is neither changed nor kept.
func (t *Table) Answer(query []byte, stream bool) (answer []byte, ok bool) {
	var p dnsmessage.Parser
	h, err := p.Start(query)
	if err != nil || h.Response {
		return nil, false
	}
	q, err := p.Question()
	if err != nil || binary.BigEndian.Uint16(query[4:]) != 1 {
		return t.refuse(h)
	}
	e, zone, ours := t.find(&q.Name)
	if !ours {
		return nil, false
	}
	opt, err := findOPT(&p)
	m := &dnsmessage.Message{Header: reply(h), Questions: []dnsmessage.Question{q}}
	switch {
	case h.OpCode != 0:
		m.RCode = dnsmessage.RCodeNotImplemented
	case err != nil:
		m.RCode = dnsmessage.RCodeFormatError
	case opt != nil && version(opt) > 0:
		m.RCode = rcodeBadVersion
	case q.Class != dnsmessage.ClassINET, q.Type == dnsmessage.TypeAXFR, q.Type == typeIXFR:
		m.RCode = dnsmessage.RCodeRefused
	default:
		t.resolve(m, e, zone)
	}
	limit := payload(opt)
	if stream {
		limit = math.MaxUint16
	}
	if opt != nil {
		m.Additionals = []dnsmessage.Resource{echo(opt, m.RCode)}
	}
	m.RCode &= maskRcode
	return t.pack(m, limit)
}

// refuse answers a query that does not have one question with a name that can be
// read. A nameserver may know better, unless none is ever asked.
func (t *Table) refuse(h dnsmessage.Header) (answer []byte, ok bool) {
	if !t.zones[""] {
		return nil, false
	}
	m := &dnsmessage.Message{Header: reply(h)}
	m.RCode = dnsmessage.RCodeFormatError
	if h.OpCode != 0 {
		m.RCode = dnsmessage.RCodeNotImplemented
	}
	return t.pack(m, minPayload)
}

// reply is the header of a response to a query with header h. RA tells stub resolvers
// that they asked at the right place: glibc and Go take an empty answer with neither
// RA nor AA for a referral.
func reply(h dnsmessage.Header) dnsmessage.Header {
	return dnsmessage.Header{
		ID:                 h.ID,
		Response:           true,
		OpCode:             h.OpCode,
		RecursionDesired:   h.RecursionDesired,
		RecursionAvailable: true,
		CheckingDisabled:   h.CheckingDisabled, // RFC 4035, section 3.2.2
	}
}

// resolve fills in what exists at the name asked, in the asker's spelling; e is nil if
// nothing does. zone is the offset of the zone's name in the name asked.
func (t *Table) resolve(m *dnsmessage.Message, e *entry, zone int) {
	q := &m.Questions[0]
	m.Authoritative = true
	if e == nil {
		m.RCode = dnsmessage.RCodeNameError
	} else {
		for _, body := range e.records(q.Type) {
			m.Answers = append(m.Answers, resource(q.Name, body))
		}
	}
	if len(m.Answers) > 0 {
		return
	}
	apex := dnsmessage.Name{Length: q.Name.Length - uint8(zone)}
	copy(apex.Data[:], q.Name.Data[zone:q.Name.Length])
	soa := resource(apex, &t.soa)
	if e != nil && zone == 0 && q.Type == dnsmessage.TypeSOA {
		m.Answers = append(m.Answers, soa)
	} else {
		m.Authorities = append(m.Authorities, soa)
	}
}

// resource makes a record with TTL 0, so that nobody caches it: members come and go.
func resource(name dnsmessage.Name, body dnsmessage.ResourceBody) dnsmessage.Resource {
	return dnsmessage.Resource{
		Header: dnsmessage.ResourceHeader{Name: name, Class: dnsmessage.ClassINET},
		Body:   body,
	}
}

// records lists an entry's records of a type, or all of them for ANY (RFC 8482 lets us
// choose).
func (e *entry) records(asked dnsmessage.Type) []dnsmessage.ResourceBody {
	want := func(kind dnsmessage.Type) bool { return asked == kind || asked == dnsmessage.TypeALL }
	var bodies []dnsmessage.ResourceBody
	if want(dnsmessage.TypeA) {
		for _, a := range e.rotated(ipv4) {
			bodies = append(bodies, &dnsmessage.AResource{A: a.As4()})
		}
	}
	if want(dnsmessage.TypeAAAA) {
		for _, a := range e.rotated(ipv6) {
			bodies = append(bodies, &dnsmessage.AAAAResource{AAAA: a.As16()})
		}
	}
	if want(dnsmessage.TypePTR) {
		var names []dnsmessage.Name
		for _, m := range e.owners {
			if !slices.Contains(names, m.ptr) {
				names = append(names, m.ptr)
				bodies = append(bodies, &dnsmessage.PTRResource{PTR: m.ptr})
			}
		}
	}
	return bodies
}

// rotated lists all the addresses of one family. Each answer begins one address later than
// the last one. The families rotate separately, because most clients ask for both.
func (e *entry) rotated(family int) []netip.Addr {
	var addrs []netip.Addr
	for _, m := range e.holders {
		for _, a := range m.addrs[family] {
			if !slices.Contains(addrs, a) {
				addrs = append(addrs, a)
			}
		}
	}
	if len(addrs) == 0 {
		return nil
	}
	first := e.turn[family] % uint(len(addrs))
	e.turn[family] = first + 1
	return slices.Concat(addrs[first:], addrs[:first])
}

// pack encodes an answer of at most limit bytes. What does not fit is left out and
// the answer marked as truncated; what does fit serves a client that asks no further.
func (t *Table) pack(m *dnsmessage.Message, limit int) (answer []byte, ok bool) {
	fits := func(answers []dnsmessage.Resource) bool {
		part := *m
		part.Answers = answers
		b, err := part.AppendPack(t.buf[:0])
		if err != nil {
			return false // never: a name that was read or is valid can be written
		}
		t.buf = b
		return len(b) <= limit
	}
	if fits(m.Answers) {
		return t.buf, true
	}
	m.Truncated = true
	m.Authorities = nil
	n := sort.Search(len(m.Answers), func(n int) bool { return !fits(m.Answers[:n+1]) })
	ok = fits(m.Answers[:n])
	return t.buf, ok
}

// findOPT returns the header of a query's OPT record, nil if it has none. p has read
// the question.
func findOPT(p *dnsmessage.Parser) (opt *dnsmessage.ResourceHeader, err error) {
	if err := errors.Join(p.SkipAllQuestions(), p.SkipAllAnswers(), p.SkipAllAuthorities()); err != nil {
		return nil, err
	}
	for {
		h, err := p.AdditionalHeader()
		switch {
		case errors.Is(err, dnsmessage.ErrSectionDone):
			return opt, nil
		case err != nil:
			return opt, err
		case h.Type == dnsmessage.TypeOPT && opt != nil:
			return opt, errManyOPT // RFC 6891, section 6.1.1
		case h.Type == dnsmessage.TypeOPT:
			opt = &h
		}
		if err := p.SkipAdditional(); err != nil {
			return opt, err
		}
	}
}

// version is the EDNS version of an OPT record: RFC 6891, section 6.1.3.
func version(opt *dnsmessage.ResourceHeader) uint8 { return uint8(opt.TTL >> 16) }

// payload bounds an answer over UDP to a query with this OPT record, if any: by RFC 6891,
// section 6.2.3, smaller sizes mean minPayload.
func payload(opt *dnsmessage.ResourceHeader) int {
	if opt == nil {
		return minPayload
	}
	return min(max(int(opt.Class), minPayload), maxPayload)
}

// echo is the OPT record of a response with the given code. DO is that of the query
// (RFC 3225, section 3); there are no signatures to send.
func echo(opt *dnsmessage.ResourceHeader, code dnsmessage.RCode) dnsmessage.Resource {
	r := dnsmessage.Resource{Body: &dnsmessage.OPTResource{}}
	r.Header.SetEDNS0(maxPayload, code, opt.DNSSECAllowed())
	return r
}
