package cli

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/pflag"

	"epiphyte/internal/api"
	"epiphyte/internal/egress"
	"epiphyte/internal/flowlog"
	"epiphyte/internal/gate"
)

// policyVariable names a policy file, for callers whose arguments are fixed. --policy takes
// precedence.
const policyVariable = "EPIPHYTE_POLICY"

// PolicyOptions say what a guest may reach by name, network and port.
type PolicyOptions struct {
	File  string   // empty: none
	Allow []string // rules of the command line, without the word allow
	Log   string   // where flows are recorded; empty: nowhere
}

// policyFlags are the names of the flags.
func policyFlags() []string { return []string{"policy", "allow", "policy-log"} }

func (o *PolicyOptions) addTo(fs *pflag.FlagSet) {
	fs.Var(fileValue("policy", &o.File), "policy", "let the guest reach what the rules in `FILE` allow; see 'policy check --help'")
	fs.Var(value{set: func(s string) error {
		if verb, _, more := strings.Cut(s, " "); more && (verb == "allow" || verb == "deny") {
			return fmt.Errorf("--allow %q: leave out the word %s; a rule that denies is a line of a file, for --policy", s, verb)
		}
		// Read here, for an error that names the option.
		_, err := egress.Parse(egress.Source{File: "--allow", Text: "allow " + s})
		var at *egress.Error
		if errors.As(err, &at) {
			return fmt.Errorf("--allow %q: %s", s, at.Msg)
		}
		o.Allow = append(o.Allow, s)
		return err
	}}, "allow", "let the guest reach what `RULE` names, [tcp|udp|icmp] NAME|ADDRESS[:PORT], and nothing else; repeatable")
	fs.Var(fileValue("policy-log", &o.Log), "policy-log", "append a line of JSON for flows that the policy decided to the file `PATH`")
	for _, name := range policyFlags() {
		own(fs.Lookup(name))
	}
}

// active reports whether there is a policy.
func (o *PolicyOptions) active() bool { return o.File != "" || len(o.Allow) > 0 }

// takeEnvironment takes the file from the environment if no option names one.
func (o *PolicyOptions) takeEnvironment() {
	if o.File == "" {
		o.File = os.Getenv(policyVariable)
	}
}

// check refuses what has no effect without a policy.
func (o *PolicyOptions) check() error {
	if o.Log != "" && !o.active() {
		return errors.New("--policy-log has no effect without --policy or --allow")
	}
	return nil
}

// load reads the policy: nil if there is none.
func (o *PolicyOptions) load() (*egress.Policy, error) {
	sources, err := o.sources()
	if err != nil || sources == nil {
		return nil, err
	}
	return egress.Parse(sources...)
}

// sources returns the texts of the policy, nil if there is no policy.
func (o *PolicyOptions) sources() (list []egress.Source, err error) {
	if o.File != "" {
		text, err := readPolicy(o.File)
		if err != nil {
			return nil, err
		}
		list = append(list, egress.Source{File: o.File, Text: text})
	}
	for _, rule := range o.Allow {
		list = append(list, egress.Source{File: "--allow", Text: "allow " + rule})
	}
	return list, nil
}

// openLog opens the record: nil if there is none.
func (o *PolicyOptions) openLog(log *slog.Logger) (*flowlog.Log, error) {
	f, err := o.openRecord()
	if f == nil {
		return nil, err
	}
	return flowlog.New(f, log), nil
}

// openRecord opens the record's file: nil if there is none.
func (o *PolicyOptions) openRecord() (*os.File, error) {
	if o.Log == "" {
		return nil, nil
	}
	f, err := os.OpenFile(o.Log, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open record of the policy: %w", err)
	}
	return f, nil
}

// hangups delivers the signals that ask for the policy to be read again; none if there is no
// file to read.
func (o *PolicyOptions) hangups() (asked <-chan os.Signal, stop func()) {
	c := make(chan os.Signal, 1)
	if o.File != "" {
		signal.Notify(c, syscall.SIGHUP)
	}
	return c, func() { signal.Stop(c) }
}

// reload reads the policy again. One that cannot be read leaves the one in force.
func (o *PolicyOptions) reload(n *guestNetwork) error {
	p, err := o.load()
	if err == nil {
		err = n.setPolicy(p)
	}
	return err
}

// setPolicy replaces the policy, if the confined program can apply the new one.
func (n *guestNetwork) setPolicy(p *egress.Policy) error {
	for _, path := range p.Sockets() {
		if !slices.Contains(n.sockets, path) {
			return fmt.Errorf("via unix:%s: the program can reach only the sockets that it was started with: start it again", path)
		}
	}
	n.guest.SetPolicy(p)
	return nil
}

// guestPolicy is a guest's policy as the HTTP socket shows it.
type guestPolicy struct{ network *guestNetwork }

// Show implements api.Policy.
func (p guestPolicy) Show() api.PolicyDocument {
	return shownPolicy(p.network.guest.Policy())
}

// shownPolicy is a policy as the HTTP sockets show it; policy is nil if the guest is gone.
func shownPolicy(policy *egress.Policy, counts gate.Counts) api.PolicyDocument {
	doc := api.PolicyDocument{Rules: []api.PolicyRule{}, Default: counts.Default, Denied: counts.Denied}
	if policy == nil {
		return doc
	}
	for _, r := range policy.Rules() {
		doc.Rules = append(doc.Rules, api.PolicyRule{Rule: r.Text, Where: r.Where(), Decided: counts.Rules[r.ID]})
	}
	return doc
}

// Replace implements api.Policy.
func (p guestPolicy) Replace(text string) error {
	policy, err := egress.Parse(egress.Source{File: "policy", Text: text})
	if err == nil {
		err = p.network.setPolicy(policy)
	}
	return err
}
