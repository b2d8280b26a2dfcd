package egress

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// rule reads what follows allow or deny.
func (p *reader) rule(allow bool, text string) error {
	r := &Rule{File: p.file, Line: p.line, Text: text, allow: allow}
	r.ID = len(p.policy.rules)
	if r.ID == MaxRules {
		if p.full {
			return nil // one such fault says it
		}
		p.full = true
		return p.errorf(1, "a policy has %d rules at most", MaxRules)
	}
	read := p.outward
	if p.accept("in") {
		r.direction, read = In, p.inward
	}
	if err := read(r); err != nil {
		return err
	}
	if err := p.done(); err != nil {
		return err
	}
	p.policy.rules = append(p.policy.rules, r)
	index := &p.policy.out
	if r.direction == In {
		index = &p.policy.in
	}
	index.add(r)
	return nil
}

// protocol reads an optional protocol.
func (p *reader) protocol(r *Rule) (given bool) {
	for _, proto := range []Proto{TCP, UDP, ICMP} {
		if p.accept(proto.String()) {
			r.protos = proto
			return true
		}
	}
	r.protos = TCP | UDP | ICMP
	return false
}

// outward reads [tcp|udp|icmp] TARGET[:PORTS] [via PROXY].
func (p *reader) outward(r *Rule) error {
	given := p.protocol(r)
	w, ok := p.next()
	if !ok {
		return p.errorf(w.column, "a name, address, prefix or group is missing")
	}
	host, ports, err := p.splitTarget(w)
	if err != nil {
		return err
	}
	if err := p.target(r, host); err != nil {
		return err
	}
	if ports.text == "" {
		return p.via(r, given)
	}
	switch {
	case given && r.protos == ICMP:
		return p.errorf(ports.column, "ICMP has no ports")
	case r.target.group == dnsGroup:
		return p.errorf(ports.column, "dns has no ports: it is our own resolver")
	}
	if err := p.ports(r, ports); err != nil {
		return err
	}
	if r.allow && !slices.ContainsFunc(r.ports, func(x portRange) bool {
		return x != portRange{portDNS, portDNS} && x != portRange{portSecureDNS, portSecureDNS}
	}) {
		return p.errorf(ports.column, "ports %d and %d cannot be allowed: guests ask our resolver only", portDNS, portSecureDNS)
	}
	if !given {
		r.protos = TCP | UDP
	}
	return p.via(r, given)
}

// inward reads [tcp|udp] from SOURCE [to PORTS].
func (p *reader) inward(r *Rule) error {
	given := p.protocol(r)
	if given && r.protos == ICMP {
		return p.errorf(p.end, "no ICMP comes in by itself: in rules are for tcp and udp")
	}
	if w, ok := p.next(); !ok || w.text != "from" {
		return p.errorf(w.column, "a rule for what comes in is: in [tcp|udp] from SOURCE [to PORTS]")
	}
	w, ok := p.next()
	if !ok {
		return p.errorf(w.column, "an address, prefix or group is missing")
	}
	if err := p.target(r, word{strings.Trim(w.text, "[]"), w.column}); err != nil {
		return err
	}
	if r.target.name != "" || r.target.group == dnsGroup {
		return p.errorf(w.column, "%q is not a source: a client is known by its address, prefix or group", w.text)
	}
	if p.accept("to") {
		w, ok := p.next()
		if !ok {
			return p.errorf(w.column, "ports are missing")
		}
		if err := p.ports(r, w); err != nil {
			return err
		}
	}
	if !given {
		r.protos = TCP | UDP
	}
	return nil
}

// splitTarget divides TARGET[:PORTS] at the colon before the ports. An IPv6 address without
// brackets has no ports.
func (p *reader) splitTarget(w word) (host, ports word, err error) {
	if rest, ok := strings.CutPrefix(w.text, "["); ok {
		inside, after, ok := strings.Cut(rest, "]")
		if !ok {
			return host, ports, p.errorf(w.column, "']' is missing")
		}
		host = word{inside, w.column + 1}
		if !strings.Contains(inside, ":") {
			return host, ports, p.errorf(host.column, "only IPv6 addresses stand in brackets, not %q", inside)
		}
		column := host.column + len(inside) + 1
		if after == "" {
			return host, ports, nil
		}
		list, ok := strings.CutPrefix(after, ":")
		if !ok || list == "" {
			return host, ports, p.errorf(column, "after ']' come a colon and ports, not %q", after)
		}
		return host, word{list, column + 1}, nil
	}
	if strings.Contains(w.text, "://") {
		return host, ports, p.errorf(w.column, "%q is a URL: name its server and the port, such as github.com:443", w.text)
	}
	if strings.Count(w.text, ":") > 1 {
		return w, ports, nil
	}
	before, after, colon := strings.Cut(w.text, ":")
	if colon && after == "" {
		return host, ports, p.errorf(w.column+len(w.text), "ports are missing after the colon")
	}
	return word{before, w.column}, word{after, w.column + len(before) + 1}, nil
}

// target reads what a rule is about.
func (p *reader) target(r *Rule, w word) error {
	s := w.text
	if g := groupNamed(s); g != noGroup {
		r.target.group = g
		return nil
	}
	if strings.Contains(s, "/") || strings.Contains(s, ":") || looksLikeAddress(s) {
		return p.prefix(r, w)
	}
	name := s
	if rest, ok := strings.CutPrefix(s, "*."); ok {
		name, r.target.below = rest, true
		w.column += 2
	}
	if i := strings.Index(name, "*"); i >= 0 {
		if s == "*" {
			return p.errorf(w.column, "'*' is every name: say public, or default allow")
		}
		return p.errorf(w.column+i, "a star stands for whole labels at the front only: *.example.com")
	}
	canonical, err := Canonical(name)
	if err != nil {
		return p.errorf(w.column, "%q is not a name: %v", name, err)
	}
	if r.allow && r.target.below && strangersBelow(canonical) {
		return p.errorf(w.column, "anybody can have a name below %s: name the part that is meant, such as *.example.%s", canonical, canonical)
	}
	r.target.name = canonical
	return nil
}

func looksLikeAddress(s string) bool {
	return s != "" && strings.Trim(s, "0123456789.") == ""
}

// prefix reads an address or a prefix.
func (p *reader) prefix(r *Rule, w word) error {
	x, err := netip.ParsePrefix(w.text)
	if !strings.Contains(w.text, "/") {
		var a netip.Addr
		if a, err = netip.ParseAddr(w.text); err == nil {
			if a.Zone() != "" {
				return p.errorf(w.column, "an address has no interface here: %q", w.text)
			}
			x = netip.PrefixFrom(a, a.BitLen())
		}
	}
	switch {
	case err != nil && strings.Count(w.text, ":") > 1:
		return p.errorf(w.column, "%q is not an address or prefix; before a port an IPv6 one stands in brackets: [2001:db8::1]:443", w.text)
	case err != nil:
		return p.errorf(w.column, "%q is not an address or prefix", w.text)
	case x.Addr().Is4In6():
		return p.errorf(w.column, "%s is an IPv4 address: write %s", w.text, x.Addr().Unmap())
	case x.Masked() != x:
		return p.errorf(w.column, "%s has bits beyond its length: write %s", w.text, x.Masked())
	case x.Bits() == 0:
		return p.errorf(w.column, "%s is everything: say public, private, or default allow", w.text)
	}
	r.target.prefix = x
	return nil
}

// ports reads PORT[-END],...
func (p *reader) ports(r *Rule, w word) error {
	column := w.column
	for item := range strings.SplitSeq(w.text, ",") {
		low, high, isRange := strings.Cut(item, "-")
		first, err := port(low)
		last := first
		if err == nil && isRange {
			last, err = port(high)
		}
		switch {
		case err != nil:
			return p.errorf(column, "%q is not a port or a range of ports from 1 to 65535", item)
		case last < first:
			return p.errorf(column, "the range of ports %s is the wrong way round", item)
		}
		r.ports = append(r.ports, portRange{first, last})
		column += len(item) + 1
	}
	return nil
}

// port reads a port in digits, without zeros at the front.
func port(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err == nil && s[0] == '0' {
		err = strconv.ErrSyntax
	}
	return uint16(n), err
}
