package egress

import (
	"encoding/binary"
	"math"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

const (
	// TTL of synthetic addresses, in seconds. They last as long as the process, but asking
	// again keeps a name among those used recently.
	syntheticTTL = 30
	// MinPin is the least time for which an answer's address is allowed, whatever its TTL.
	MinPin = 30 * time.Second

	// Sizes over UDP: RFC 1035 section 2.3.4, and what passes unfragmented anywhere.
	minPayload = 512
	maxPayload = 1232
)

// optionEDE and blocked: Extended DNS Errors, RFC 8914 sections 2 and 4.16.
const (
	optionEDE = 15
	blocked   = 15
)

// Questions says what becomes of DNS queries. Its fields are set before use.
type Questions struct {
	Names *Names
	Pins  *Pins // for names pin
	IPv6  bool  // the guest has IPv6, and gets such addresses
}

// Question is what becomes of one query. Either Answer or Upstream is set.
type Question struct {
	// Answer is given at once.
	Answer []byte
	// Upstream is to be asked in place of the query, and Finish turns the response into the
	// answer. Of the guest's query it holds only the name, in lower case, and the type.
	Upstream []byte
	Finish   func(response []byte, now time.Duration) (answer []byte)

	// Name is the name that was asked for, as Canonical makes it, and Verdict is about it.
	// Name is empty if the query is about none that a policy decides.
	Name    string
	Verdict Verdict
}

// Ask says what becomes of a query under a policy. With stream the answer may have any
// length. For a message that is no query the Question is empty.
func (q *Questions) Ask(p *Policy, query []byte, stream bool, now time.Duration) Question {
	r, ok := newResponse(query, stream)
	if !ok {
		return Question{Answer: r.pack()}
	}
	asked := r.m.Questions[0]
	text := strings.TrimSuffix(asked.Name.String(), ".")
	if a, ok := reverse(text); ok {
		return Question{Answer: q.pointer(r, a)}
	}
	name, err := Canonical(text)
	if err != nil {
		return Question{Answer: r.negative(dnsmessage.RCodeNameError, "no name of a host")}
	}
	v := p.DecideName(name)
	if p.Learn && !v.Allow {
		v.Allow = true // Verdict.Reason still says that it would be denied
	}
	if !v.Allow {
		return Question{Answer: r.negative(dnsmessage.RCodeNameError, v.text(name)), Name: name, Verdict: v}
	}
	address := asked.Type == dnsmessage.TypeA || asked.Type == dnsmessage.TypeAAAA
	service := asked.Type == dnsmessage.TypeHTTPS || asked.Type == dnsmessage.TypeSVCB
	switch {
	case address && !p.Pin:
		b := q.Names.Bind(name, v, now)
		if b == nil {
			v = Verdict{Reason: TooManyNames, Rule: v.Rule}
			return Question{Answer: r.negative(dnsmessage.RCodeNameError, string(v.Reason)), Name: name, Verdict: v}
		}
		return Question{Answer: q.synthetic(r, b), Name: name, Verdict: v}
	case asked.Type == dnsmessage.TypeAAAA && !q.IPv6, !address && !service && !p.AnyDNS,
		!p.Pin && v.Rule != nil && v.Rule.Via != nil: // only the proxy may learn the name
		return Question{Answer: r.negative(dnsmessage.RCodeSuccess, ""), Name: name, Verdict: v}
	case q.Names.Bind(name, v, now) == nil: // counts the names below a star
		v = Verdict{Reason: TooManyNames, Rule: v.Rule}
		return Question{Answer: r.negative(dnsmessage.RCodeNameError, string(v.Reason)), Name: name, Verdict: v}
	}
	return Question{
		Upstream: Upstream(name, asked.Type), Name: name, Verdict: v,
		Finish: func(response []byte, now time.Duration) []byte { return q.finish(p, r, name, response, now) },
	}
}

// Refuse says whether a policy denies the name of a query that another part answers. If it
// does, the Question has an Answer.
func (q *Questions) Refuse(p *Policy, query []byte, stream bool) (Question, bool) {
	r, ok := newResponse(query, stream)
	if !ok {
		return Question{}, false
	}
	name, err := Canonical(r.m.Questions[0].Name.String())
	if _, isAddr := reverse(name); isAddr || err != nil {
		return Question{}, false
	}
	v := p.DecideName(name)
	if v.Allow || p.Learn {
		return Question{}, false
	}
	return Question{Answer: r.negative(dnsmessage.RCodeNameError, v.text(name)), Name: name, Verdict: v}, true
}

// text explains a verdict against a name to the guest.
func (v Verdict) text(name string) string {
	if v.Rule == nil {
		return "no rule allows " + name
	}
	return v.Rule.Text
}

// Upstream makes a query for a canonical name: recursion desired, and room for an answer that
// passes unfragmented. The resolver chooses its id.
func Upstream(name string, t dnsmessage.Type) []byte {
	n, err := dnsmessage.NewName(name + ".")
	if err != nil {
		return nil // never: a canonical name is short enough
	}
	var opt dnsmessage.ResourceHeader
	opt.SetEDNS0(maxPayload, dnsmessage.RCodeSuccess, false)
	m := dnsmessage.Message{
		Header:      dnsmessage.Header{RecursionDesired: true},
		Questions:   []dnsmessage.Question{{Name: n, Type: t, Class: dnsmessage.ClassINET}},
		Additionals: []dnsmessage.Resource{{Header: opt, Body: &dnsmessage.OPTResource{}}},
	}
	b, _ := m.Pack()
	return b
}

// synthetic answers with a name's own address.
func (q *Questions) synthetic(r *response, b *Binding) []byte {
	var body dnsmessage.ResourceBody = &dnsmessage.AResource{A: b.Addr4().As4()}
	if r.m.Questions[0].Type == dnsmessage.TypeAAAA {
		if !q.IPv6 {
			return r.negative(dnsmessage.RCodeSuccess, "")
		}
		body = &dnsmessage.AAAAResource{AAAA: b.Addr6().As16()}
	}
	r.add(syntheticTTL, body)
	return r.pack()
}

// pointer answers a query for the name of an address. Only our own have one; no nameserver is
// asked about others.
func (q *Questions) pointer(r *response, a netip.Addr) []byte {
	b := q.Names.Find(a)
	if b == nil {
		return r.negative(dnsmessage.RCodeNameError, "")
	}
	if r.m.Questions[0].Type != dnsmessage.TypePTR {
		return r.negative(dnsmessage.RCodeSuccess, "")
	}
	name, err := dnsmessage.NewName(b.Name + ".")
	if err != nil {
		return r.negative(dnsmessage.RCodeServerFailure, "")
	}
	r.add(syntheticTTL, &dnsmessage.PTRResource{PTR: name})
	return r.pack()
}

// reverse returns the address whose name is asked for: RFC 1035 section 3.5, RFC 3596
// section 2.5. ok is true for any name below these domains; a is not valid if it is no
// address.
func reverse(name string) (a netip.Addr, ok bool) {
	name = strings.ToLower(name)
	if rest, ok := strings.CutSuffix(name, ".in-addr.arpa"); ok {
		labels := strings.Split(rest, ".")
		for i, j := 0, len(labels)-1; i < j; i, j = i+1, j-1 {
			labels[i], labels[j] = labels[j], labels[i]
		}
		a, _ = netip.ParseAddr(strings.Join(labels, "."))
		return a, true
	}
	rest, ok := strings.CutSuffix(name, ".ip6.arpa")
	if !ok {
		return a, false
	}
	var b [16]byte
	if len(rest) != 63 {
		return a, true
	}
	for i := range 32 {
		digit := strings.IndexByte("0123456789abcdef", rest[62-2*i])
		if digit < 0 || i < 31 && rest[62-2*i-1] != '.' {
			return netip.Addr{}, true
		}
		b[i/2] = b[i/2]<<4 | byte(digit)
	}
	return netip.AddrFrom16(b), true
}

// response is the answer to one query, while it is being made.
type response struct {
	m     dnsmessage.Message
	limit int
	opt   *dnsmessage.ResourceHeader // of the query
}

// newResponse begins the answer to a query. If ok is false, the answer is an error and
// complete, or there is to be none.
func newResponse(query []byte, stream bool) (r *response, ok bool) {
	var p dnsmessage.Parser
	h, err := p.Start(query)
	r = &response{limit: minPayload}
	if err != nil || h.Response {
		return r, false
	}
	r.m.Header = dnsmessage.Header{
		ID: h.ID, Response: true, OpCode: h.OpCode, RecursionDesired: h.RecursionDesired,
		RecursionAvailable: true, CheckingDisabled: h.CheckingDisabled,
	}
	asked, err := p.Question()
	if err != nil || binary.BigEndian.Uint16(query[4:]) != 1 {
		r.m.RCode = dnsmessage.RCodeFormatError
		return r, false
	}
	r.m.Questions = []dnsmessage.Question{asked}
	r.opt, err = findOPT(&p)
	if r.opt != nil {
		r.limit = min(max(int(r.opt.Class), minPayload), maxPayload)
	}
	if stream {
		r.limit = math.MaxUint16
	}
	switch {
	case err != nil:
		r.m.RCode = dnsmessage.RCodeFormatError
	case h.OpCode != 0:
		r.m.RCode = dnsmessage.RCodeNotImplemented
	case asked.Class != dnsmessage.ClassINET, asked.Type == dnsmessage.TypeAXFR, asked.Type == 251: // IXFR
		r.m.RCode = dnsmessage.RCodeRefused
	}
	return r, r.m.RCode == dnsmessage.RCodeSuccess
}

// findOPT returns the header of a query's OPT record, nil if it has none.
func findOPT(p *dnsmessage.Parser) (opt *dnsmessage.ResourceHeader, err error) {
	for _, skip := range []func() error{p.SkipAllQuestions, p.SkipAllAnswers, p.SkipAllAuthorities} {
		if err := skip(); err != nil {
			return nil, err
		}
	}
	for {
		h, err := p.AdditionalHeader()
		if err == dnsmessage.ErrSectionDone {
			return opt, nil
		}
		if err != nil {
			return opt, err
		}
		if h.Type == dnsmessage.TypeOPT {
			opt = &h
		}
		if err := p.SkipAdditional(); err != nil {
			return opt, err
		}
	}
}

// add adds a record of the name that was asked for, in the guest's spelling.
func (r *response) add(ttl uint32, body dnsmessage.ResourceBody) {
	r.m.Answers = append(r.m.Answers, dnsmessage.Resource{
		Header: dnsmessage.ResourceHeader{Name: r.m.Questions[0].Name, Class: dnsmessage.ClassINET, TTL: ttl},
		Body:   body,
	})
}

// negative makes an answer without records, which no cache keeps (RFC 2308 section 5), since
// the policy may change. why, if not empty, goes into an extended error.
func (r *response) negative(code dnsmessage.RCode, why string) []byte {
	r.m.RCode = code
	root := dnsmessage.MustNewName(".")
	r.m.Authorities = []dnsmessage.Resource{{
		Header: dnsmessage.ResourceHeader{Name: root, Class: dnsmessage.ClassINET},
		Body:   &dnsmessage.SOAResource{NS: root, MBox: root},
	}}
	return r.packWith(why)
}

func (r *response) pack() []byte { return r.packWith("") }

// packWith encodes the answer. What does not fit is left out, and TC set.
func (r *response) packWith(why string) []byte {
	if !r.m.Response {
		return nil
	}
	if r.opt != nil {
		body := new(dnsmessage.OPTResource)
		if why != "" {
			why = why[:min(len(why), 200)]
			body.Options = []dnsmessage.Option{{Code: optionEDE, Data: append([]byte{0, blocked}, why...)}}
		}
		var h dnsmessage.ResourceHeader
		h.SetEDNS0(maxPayload, r.m.RCode, r.opt.DNSSECAllowed())
		r.m.Additionals = []dnsmessage.Resource{{Header: h, Body: body}}
	}
	for {
		b, err := r.m.Pack()
		if err == nil && len(b) <= r.limit {
			return b
		}
		if len(r.m.Answers) == 0 {
			return b
		}
		r.m.Truncated = true
		r.m.Answers = r.m.Answers[:len(r.m.Answers)-1]
	}
}
