package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"

	"epiphyte/internal/api"
	"epiphyte/internal/egress"
	"epiphyte/internal/guest"
	"epiphyte/internal/policy"
)

// why answers a client's question about a flow of the guest's.
func (o *Options) why(g *guest.Guest, text string) (*api.Why, error) {
	f, err := egress.ParseFlow(text)
	if err != nil {
		return nil, err
	}
	if f.Direction == egress.In {
		return nil, errors.New("only what the guest begins can be asked about")
	}
	why := g.Why(f)
	d := why.Decision
	doc := &api.Why{Flow: text, Verdict: "dropped", Reason: o.reason(f, why)}
	switch d.Action {
	case policy.Allow:
		doc.Verdict = "allowed"
		o.leads(doc, f, d.To)
	case policy.Refuse:
		doc.Verdict, doc.Errno = "refused", unix.ErrnoName(d.Errno)
	case policy.ServeDNS, policy.ServeDHCP, policy.ServeDHCP6:
		doc.Verdict = "served"
	}
	if v := why.Verdict; v != nil {
		if !v.Allow {
			doc.Verdict, doc.Errno, doc.To, doc.From = "refused", "EACCES", "", ""
		}
		if v.Rule != nil {
			doc.Rule, doc.Where = v.Rule.Text, v.Rule.Where()
		}
	}
	if (d.Action == policy.ServeDNS || f.Name != "") && why.NameServer.IsValid() {
		doc.NameServer = why.NameServer.String()
	}
	return doc, nil
}

// leads says where on the host a flow that is allowed leads to, and by which address.
func (o *Options) leads(doc *api.Why, f egress.Flow, to netip.AddrPort) {
	switch {
	case !to.IsValid():
		return
	case f.Proto == egress.ICMP:
		doc.To = to.Addr().String()
	default:
		doc.To = to.String()
	}
	doc.From = o.Source.IPv4()
	if to.Addr().Is6() {
		doc.From = o.Source.IPv6()
	}
}

// reason says in words why a decision is what it is.
func (o *Options) reason(f egress.Flow, why guest.Why) string {
	d, p := why.Decision, &o.Plan
	switch v := why.Verdict; {
	case v != nil && !v.Allow && v.Reason == egress.ByDefault:
		return "no rule of the policy allows it"
	case v != nil && !v.Allow && v.Reason == egress.ByRule:
		return "a rule of the policy denies it"
	case v != nil && !v.Allow:
		return "the policy denies it: " + string(v.Reason)
	case f.Name != "" && !why.NameServer.IsValid():
		return "the name cannot be looked up: the host has no nameserver, or --disable-dns was given"
	case f.Name != "":
		return "the name is looked up, and its addresses are decided about"
	}
	switch d.Action {
	case policy.ServeDNS:
		if !why.NameServer.IsValid() {
			return "the guest's resolver answers, but with SERVFAIL: the host has no nameserver"
		}
		return "the guest's resolver answers, by the host's nameservers"
	case policy.ServeDHCP, policy.ServeDHCP6:
		return "the program's DHCP server answers"
	}
	allowed := d.Action == policy.Allow
	switch a := f.Addr; {
	case p.IsHostLoopback(a) && allowed:
		return "the gateway's address stands for the host's loopback"
	case p.IsHostLoopback(a):
		return "the gateway's address stands for the host's loopback, which --disable-host-loopback closes"
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

// why asks about a flow, and prints the answer.
func (c *Client) why(ctx context.Context, stdout io.Writer) error {
	w, err := c.api.Why(ctx, strings.Join(c.operands, " "))
	if err != nil {
		return err
	}
	if c.json {
		return printJSON(stdout, w)
	}
	text := fmt.Sprintf("%s: %s\n%s\n", w.Flow, w.Verdict, w.Reason)
	for _, line := range [...]struct{ name, value string }{
		{"to", w.To}, {"from", w.From}, {"error", w.Errno}, {"rule", w.Rule}, {"at", w.Where}, {"nameserver", w.NameServer},
	} {
		if line.value != "" {
			text += fmt.Sprintf("  %-12s%s\n", line.name, line.value)
		}
	}
	_, err = io.WriteString(stdout, text)
	return err
}
