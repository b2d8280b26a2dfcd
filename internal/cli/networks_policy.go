package cli

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"epiphyte/internal/api"
	"epiphyte/internal/egress"
	"epiphyte/internal/gate"
	"epiphyte/internal/network"
)

// memberPolicies are the policies of a network's members, for its HTTP socket.
type memberPolicies struct{ worker *network.Worker }

// Show implements api.Policies.
func (p memberPolicies) Show(member string) (doc api.PolicyDocument, err error) {
	policy, counts, err := p.worker.MemberPolicy(member)
	if err != nil {
		return doc, err
	}
	return shownPolicy(policy, counts), nil
}

// Each implements api.Policies.
func (p memberPolicies) Each(f func(member string, doc api.PolicyDocument)) {
	p.worker.MemberPolicies(func(member string, policy *egress.Policy, counts gate.Counts) {
		f(member, shownPolicy(policy, counts))
	})
}

func policyCommandFlags(n *Networks, fs *pflag.FlagSet) {
	boolFlag(fs, "json", "", "without FILE, print JSON", &n.json)
}

// policy replaces a member's policy, or shows the one that it has.
func (n *Networks) policy(ctx context.Context, e *env) error {
	name, member := n.operands[0], n.operands[1]
	if len(n.operands) == 2 {
		doc, err := (&api.Client{HTTP: e.paths.API(name)}).MemberPolicy(ctx, member)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ECONNREFUSED) {
			err = fmt.Errorf("network %s: %w", name, network.ErrNotRunning)
		}
		if err != nil {
			return err
		}
		if n.json {
			return printJSON(e.stdout, doc)
		}
		return showPolicy(e.stdout, &doc)
	}
	file, err := wholePolicyPath(n.operands[2])
	if err != nil {
		return err
	}
	sources, err := (PolicyOptions{File: file}).ofMember()
	if err != nil {
		return err
	}
	sealed, err := network.SealPolicy(sources)
	if err != nil {
		return err
	}
	defer sealed.Close()
	return n.ask(ctx, e, name, func(c *network.Client) error { return c.SetPolicy(ctx, member, file, sealed) })
}

// showPolicy prints rules and how often each has decided.
func showPolicy(stdout io.Writer, doc *api.PolicyDocument) error {
	w := table(stdout)
	fmt.Fprintln(w, "DECIDED\tRULE\tAT")
	for _, r := range doc.Rules {
		fmt.Fprintf(w, "%d\t%s\t%s\n", r.Decided, r.Rule, r.Where)
	}
	fmt.Fprintf(w, "%d\tallowed by default\t-\n%d\tdenied in all\t-\n", doc.Default, doc.Denied)
	return w.Flush()
}
