package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"

	"epiphyte/internal/api"
	"epiphyte/internal/egress"
	"epiphyte/internal/guest"
	"epiphyte/internal/network"
	"epiphyte/internal/outbound"
	"epiphyte/internal/policy"
)

// why answers a client's question about a flow of the guest's.
func (o *Options) why(g *guest.Guest, member, text string) (*api.Why, error) {
	if member != "" {
		return nil, errors.New("this guest is not a member of a network")
	}
	f, err := parseAsked(text)
	if err != nil {
		return nil, err
	}
	f, absent := g.HostFlow(f)
	if absent {
		return absentHost(text), nil
	}
	return (&explainer{&o.Plan, o.Source}).explain(text, f, g.Why(nil, f)), nil
}

// whyOfMember answers a client's question about a flow of a network's member.
func whyOfMember(w *network.Worker, member, text string) (*api.Why, error) {
	f, err := parseAsked(text)
	if err != nil {
		return nil, err
	}
	why, err := w.Why(member, f)
	if err != nil {
		return nil, err
	}
	doc := &api.Why{Flow: text, Verdict: "allowed", Member: why.Neighbor}
	if why.Elsewhere != "" {
		doc.Member = why.Elsewhere + "/" + why.Neighbor
	}
	switch {
	case why.NoHost:
		doc = absentHost(text)
	case why.Unknown:
		doc.Verdict, doc.Reason = "refused", "no member has the name, and the network answers for it itself"
	case why.Own:
		doc.Reason = "the address is the member's own, and nothing leaves it"
	case why.Neighbor != "" && why.Apart:
		doc.Verdict, doc.Reason = "dropped", "the address is a neighbour's, and the network keeps members apart (--isolate)"
	case why.Neighbor != "":
		doc.Reason = "the address is a neighbour's: what members say to each other passes no policy"
		doc.To = endpoint(why.Flow, netip.AddrPortFrom(why.Flow.Addr, why.Flow.Port))
	default:
		plan := w.Plan()
		doc = (&explainer{&plan, new(outbound.Source)}).explain(text, why.Flow, why.Why)
		if w.Definition().Internal && doc.Errno == "ENETUNREACH" && policy.Routable(why.Flow.Addr) {
			doc.Reason = "the network is internal: nothing leaves it"
		}
	}
	return doc, nil
}

// absentHost explains a name of the host's that does not exist for the guest.
func absentHost(text string) *api.Why {
	return &api.Why{Flow: text, Verdict: "refused", Reason: "the name does not exist: the host's names lead to it where the guest may reach it " +
		"(--disable-host-loopback closes it; of a network, --allow-host-loopback opens it), and nothing is below them"}
}

// parseAsked reads the flow of a question.
func parseAsked(text string) (f egress.Flow, err error) {
	f, err = egress.ParseFlow(text)
	if err == nil && f.Direction == egress.In {
		err = errors.New("only what the guest begins can be asked about")
	}
	return f, err
}

// why asks about a flow, and prints the answer.
func (c *Client) why(ctx context.Context, stdout io.Writer) error {
	member := ""
	if c.member != nil {
		member = c.member.Member
	}
	w, err := c.api.Why(ctx, member, strings.Join(c.operands, " "))
	if err != nil {
		return err
	}
	if c.json {
		return printJSON(stdout, w)
	}
	text := fmt.Sprintf("%s: %s\n%s\n", w.Flow, w.Verdict, w.Reason)
	for _, line := range [...]struct{ name, value string }{
		{"to", w.To}, {"member", w.Member}, {"from", w.From}, {"error", w.Errno}, {"rule", w.Rule}, {"at", w.Where}, {"nameserver", w.NameServer},
	} {
		if line.value != "" {
			text += fmt.Sprintf("  %-12s%s\n", line.name, line.value)
		}
	}
	_, err = io.WriteString(stdout, text)
	return err
}
