package gate

import (
	"net/netip"

	"golang.org/x/sys/unix"

	"epiphyte/internal/egress"
	"epiphyte/internal/policy"
	"epiphyte/internal/proxy"
)

// goesByProxy reports whether a verdict sends a flow through a proxy.
func goesByProxy(v egress.Verdict) bool { return v.Allow && v.Rule != nil && v.Rule.Via != nil }

// decideProxy decides about a connection through a proxy. The proxy gets the name, and no
// nameserver is asked about it. The proxy's own name may lead anywhere, since the user chose
// it.
func (g *Gate) decideProxy(q policy.Request, f egress.Flow, v egress.Verdict) policy.Decision {
	s := v.Rule.Via
	host := f.Name
	if host == "" {
		host = f.Addr.String()
	}
	d := policy.Decision{Action: policy.Allow, Path: s.Path, Proxy: proxy.NewTalk(s.Kind, host, f.Port)}
	if s.Path != "" {
		return g.act(q, d, f, v)
	}
	if a, err := netip.ParseAddr(s.Host); err == nil {
		d.To = netip.AddrPortFrom(a, s.Port)
		return g.act(q, d, f, v)
	}
	toAny := func(all found) policy.Decision {
		addrs := all.from(q.Dst.Addr())
		if len(addrs) == 0 {
			g.record(f, egress.Verdict{Reason: egress.NoProxy, Rule: v.Rule}, q, egress.Ending{})
			return policy.Decision{Action: policy.Refuse, Errno: unix.EHOSTUNREACH}
		}
		for _, a := range addrs[:min(len(addrs), tries)] {
			d.Others = append(d.Others, netip.AddrPortFrom(a, s.Port))
		}
		d.To, d.Others = d.Others[0], d.Others[1:]
		return g.act(q, d, f, v)
	}
	if s.Host == "localhost" { // which nameservers do not know
		return toAny(found{{loopback4()}, {netip.IPv6Loopback()}})
	}
	return g.resolve(q, s.Host, nil, toAny)
}

func loopback4() netip.Addr { return netip.AddrFrom4([4]byte{127, 0, 0, 1}) }
