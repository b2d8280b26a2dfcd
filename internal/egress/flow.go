package egress

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// ParseFlow reads a flow as people write it:
//
//	[tcp|udp] NAME|ADDRESS:PORT [at ADDRESS]
//	icmp NAME|ADDRESS [at ADDRESS]
//	in [tcp|udp] from ADDRESS to PORT
//
// A word "host" or "member" before an address says that it is the host's own, or another
// member's. The protocol is tcp if none is given.
func ParseFlow(s string) (Flow, error) {
	p := &flowReader{words: strings.Fields(s)}
	f := Flow{Proto: TCP}
	if p.accept("in") {
		f.Direction = In
	}
	for _, proto := range []Proto{TCP, UDP, ICMP} {
		if p.accept(proto.String()) {
			f.Proto = proto
			break
		}
	}
	if f.Direction == In {
		p.want("from")
		p.addr(&f)
		p.want("to")
		p.port(&f, p.next("a port"))
	} else {
		p.destination(&f)
	}
	switch {
	case p.err != nil:
	case len(p.words) > 0:
		p.err = fmt.Errorf("nothing may follow here, but there is %q", p.words[0])
	case f.Direction == In && f.Proto == ICMP:
		p.err = errors.New("no ICMP comes in by itself")
	}
	if p.err != nil {
		return Flow{}, fmt.Errorf("read flow %q: %w", s, p.err)
	}
	return f, nil
}

// flowReader reads words, and keeps the first error.
type flowReader struct {
	words []string
	err   error
}

func (p *flowReader) fail(err error) {
	if p.err == nil {
		p.err = err
	}
}

func (p *flowReader) accept(w string) bool {
	if len(p.words) == 0 || p.words[0] != w {
		return false
	}
	p.words = p.words[1:]
	return true
}

func (p *flowReader) want(w string) {
	if !p.accept(w) {
		p.fail(fmt.Errorf("%q is missing", w))
	}
}

// next takes the next word; what describes it for the error that it is missing.
func (p *flowReader) next(what string) string {
	if len(p.words) == 0 {
		p.fail(fmt.Errorf("%s is missing", what))
		return ""
	}
	w := p.words[0]
	p.words = p.words[1:]
	return w
}

// destination reads NAME|ADDRESS[:PORT] [at ADDRESS].
func (p *flowReader) destination(f *Flow) {
	f.Host = p.accept("host")
	f.Member = !f.Host && p.accept("member")
	what := "NAME:PORT or ADDRESS:PORT"
	if f.Proto == ICMP {
		what = "a name or an address"
	}
	w := p.next(what)
	if f.Proto != ICMP {
		i := strings.LastIndexByte(w, ':')
		if i < 0 || strings.HasSuffix(w[:i], ":") {
			p.fail(errors.New("a port is missing"))
			return
		}
		p.port(f, w[i+1:])
		w = w[:i]
	}
	if a, err := netip.ParseAddr(strings.Trim(w, "[]")); err == nil {
		f.Addr = a.Unmap().WithZone("")
		return
	}
	name, err := Canonical(w)
	if err != nil {
		p.fail(fmt.Errorf("%q is not a name or address: %w", w, err))
		return
	}
	f.Name = name
	if p.accept("at") {
		p.addr(f)
	}
}

func (p *flowReader) addr(f *Flow) {
	f.Host = p.accept("host") || f.Host
	f.Member = p.accept("member") || f.Member
	a, err := netip.ParseAddr(strings.Trim(p.next("an address"), "[]"))
	if err != nil {
		p.fail(err)
		return
	}
	f.Addr = a.Unmap().WithZone("")
}

func (p *flowReader) port(f *Flow, s string) {
	n, err := port(s)
	if err != nil || n == 0 {
		p.fail(fmt.Errorf("%q is not a port", s))
		return
	}
	f.Port = n
}
