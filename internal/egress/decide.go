package egress

// Ports of DNS (RFC 1035) and of DNS over TLS and QUIC (RFC 7858, RFC 9250).
const (
	portDNS       = 53
	portSecureDNS = 853
)

// Decide says what becomes of a flow. It is the same for the same flow, and neither
// blocks nor allocates. Learn is the caller's to follow.
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
			return Verdict{Reason: NotPublic} // nobody means it by "default allow"
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

// DecideName says whether a name may be asked for: whether there is a protocol and
// port by which it may be reached. name is as Canonical makes it.
func (p *Policy) DecideName(name string) Verdict {
	if b := &p.out.groups[dnsGroup]; len(b.deny) > 0 {
		return Verdict{Reason: ByRule, Rule: b.deny[0]}
	}
	var m match
	p.out.eachNamed(name, func(b *bucket) {
		for _, r := range b.deny {
			if r.coversAll() && (m.deny == nil || r.ID < m.deny.ID) {
				m.deny = r
			}
		}
		for _, r := range b.allow {
			if r.goesBefore(m.allow) {
				m.allow = r
			}
		}
	})
	return p.verdict(Out, m)
}

// DecideSeen says whether traffic that names a server may go on, on a flow that was
// allowed: f.Name is what the address is bound to, empty if it is not, and seen the
// name in the traffic, as Canonical makes it. An address that is bound to no name was
// allowed with whatever is served there, but for names that are denied.
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
