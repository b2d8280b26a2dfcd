package cli

import (
	"net/netip"

	"golang.org/x/sys/unix"

	"epiphyte/internal/addressing"
	"epiphyte/internal/api"
	"epiphyte/internal/egress"
	"epiphyte/internal/guest"
	"epiphyte/internal/outbound"
	"epiphyte/internal/policy"
)

// explainer puts into words what would become of flows.
type explainer struct {
	plan   *addressing.Plan
	source *outbound.Source
}

// explain says what would become of flow f; text is how it was asked about.
func (x *explainer) explain(text string, f egress.Flow, why guest.Why) *api.Why {
	d := why.Decision
	doc := &api.Why{Flow: text, Verdict: "dropped", Reason: x.reason(f, why)}
	switch d.Action {
	case policy.Allow:
		doc.Verdict = "allowed"
		x.leads(doc, f, d.To)
	case policy.Refuse:
		doc.Verdict, doc.Errno = "refused", unix.ErrnoName(d.Errno)
	case policy.ServeDNS, policy.ServeDHCP, policy.ServeDHCP6:
		doc.Verdict = "served"
	}
	if v := why.Verdict; v != nil {
		if !v.Allow && !why.Learned {
			doc.Verdict, doc.Errno, doc.To, doc.From = "refused", "EACCES", "", ""
		}
		if v.Rule != nil {
			doc.Rule, doc.Where = v.Rule.Text, v.Rule.Where()
		}
	}
	if (d.Action == policy.ServeDNS || f.Name != "") && why.NameServer.IsValid() {
		doc.NameServer = why.NameServer.String()
	}
	return doc
}

// leads adds where an allowed flow leads on the host, and from which address.
func (x *explainer) leads(doc *api.Why, f egress.Flow, to netip.AddrPort) {
	if !to.IsValid() {
		return
	}
	doc.To, doc.From = endpoint(f, to), x.source.IPv4()
	if to.Addr().Is6() {
		doc.From = x.source.IPv6()
	}
}

// endpoint is where a flow leads; a ping has no port.
func endpoint(f egress.Flow, to netip.AddrPort) string {
	if f.Proto == egress.ICMP {
		return to.Addr().String()
	}
	return to.String()
}

// reason says in words why a decision is what it is.
func (x *explainer) reason(f egress.Flow, why guest.Why) string {
	switch text := verdictReason(why.Verdict); {
	case why.Learned:
		return text + ", but under learn it passes, and is recorded"
	case text != "":
		return text
	}
	hasServer := why.NameServer.IsValid()
	switch action := why.Decision.Action; {
	case f.Name != "" && !hasServer:
		return "the name cannot be looked up: the host has no nameserver, or --disable-dns was given"
	case f.Name != "":
		return "the name is looked up, and its addresses are decided about"
	case action == policy.ServeDNS && !hasServer:
		return "the guest's resolver answers, but with SERVFAIL: the host has no nameserver"
	case action == policy.ServeDNS:
		return "the guest's resolver answers, by the host's nameservers"
	case action == policy.ServeDHCP, action == policy.ServeDHCP6:
		return "the program's DHCP server answers"
	}
	return x.addressReason(f.Addr, why.Decision.Action == policy.Allow)
}

// verdictReason says why a policy denies a flow; empty: it does not.
func verdictReason(v *egress.Verdict) string {
	switch {
	case v == nil || v.Allow:
		return ""
	case v.Reason == egress.ByDefault:
		return "no rule of the policy allows it"
	case v.Reason == egress.ByRule:
		return "a rule of the policy denies it"
	}
	return "the policy denies it: " + string(v.Reason)
}

// addressReason explains a decision by the role of the address.
func (x *explainer) addressReason(a netip.Addr, allowed bool) string {
	switch p := x.plan; {
	case p.IsHostLoopback(a) && allowed:
		return "the gateway's address stands for the host's loopback"
	case p.IsHostLoopback(a):
		return "the gateway's address stands for the host's loopback, which is closed to the guest (--disable-host-loopback; of a network, --allow-host-loopback opens it)"
	case p.IsHostAddr(a) && allowed:
		return "the address stands for the host's own"
	case p.IsHostAddr(a):
		return "the address stands for the host's own, and the host has none of its family"
	case p.IsDNS(a) && !allowed:
		return "the resolver's address answers at port 53 alone"
	case p.IsOwn(a) && !allowed:
		return "the address is one of the program's own, or the guest's"
	case allowed:
		return "the host connects to it"
	case !policy.Routable(a):
		return "no host has such an address: loopback, multicast, unspecified and the like"
	case p.Inside(a):
		return "the address is in the guest's subnet, where nobody has it"
	}
	return "the protocol is switched off"
}
