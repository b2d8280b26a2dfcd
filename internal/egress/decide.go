package egress

// Ports of DNS (RFC 1035) and of DNS over TLS and QUIC (RFC 7858, RFC 9250).
const (
	portDNS       = 53
	portSecureDNS = 853
)

// Decide says what becomes of a flow. The same flow always gets the same verdict. It neither
// blocks nor allocates, and leaves Learn to the caller.
func (p *Policy) Decide(f Flow) Verdict {
	if f.Direction == In {
		return p.verdict(In, p.in.byAddr(&f))
	}
	if (f.Port == portDNS || f.Port == portSecureDNS) && f.Proto != ICMP {
		return Verdict{Reason: OtherDNS}
	}
	if f.Name == "" {
		v := p.verdict(Out, p.out.byAddr(&f))
		if v.Allow && v.Rule == nil && classOf(f.Addr) == metadataGroup {
			return Verdict{Reason: NotPublic} // "default allow" is not meant to open it
		}
		return v
	}
	name := p.verdict(Out, p.out.byName(&f))
	if !name.Allow || !f.Addr.IsValid() {
		return name
	}
	addr := p.out.byAddr(&f)
	switch {
	case addr.deny != nil:
		return Verdict{Reason: ByRule, Rule: addr.deny}
	case addr.allow == nil && (f.Host || f.Member || classOf(f.Addr) != publicGroup):
		return Verdict{Reason: NotPublic, Rule: name.Rule}
	}
	return name
}

func (p *Policy) verdict(d Direction, m match) Verdict {
	switch {
	case m.deny != nil:
		return Verdict{Reason: ByRule, Rule: m.deny}
	case m.allow != nil:
		return Verdict{Allow: true, Reason: ByRule, Rule: m.allow}
	}
	return Verdict{Allow: p.allow[d], Reason: ByDefault}
}

// DecideName says whether a name may be looked up: whether it may be reached by some protocol
// and port. name is as Canonical makes it.
func (p *Policy) DecideName(name string) Verdict {
	if deny := p.out.groups[dnsGroup].deny.rules; len(deny) > 0 {
		return Verdict{Reason: ByRule, Rule: deny[0]}
	}
	var m match
	p.out.eachNamed(name, func(b *bucket) {
		if r := b.deny.all; r != nil && r.goesBefore(m.deny) {
			m.deny = r
		}
		if len(b.allow.rules) > 0 && b.allow.rules[0].goesBefore(m.allow) {
			m.allow = b.allow.rules[0]
		}
	})
	return p.verdict(Out, m)
}

// DecideSeen says whether an allowed flow may go on once its traffic has named a server:
// f.Name is the name that the address is bound to, empty if none, and seen the name in the
// traffic, as Canonical makes it. An address that is bound to no name was allowed with
// whatever is served there, except for denied names.
func (p *Policy) DecideSeen(f Flow, seen string) Verdict {
	bound := f.Name
	f.Name = seen
	if bound == "" {
		if m := p.out.byName(&f); m.deny != nil {
			return Verdict{Reason: ByRule, Rule: m.deny}
		}
		f.Name = ""
		return p.Decide(f)
	}
	if bound != seen {
		return Verdict{Reason: OtherName}
	}
	return p.Decide(f)
}
