package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"

	"epiphyte/internal/egress"
)

// policyCommand is the first argument of the commands about policies.
const policyCommand = "policy"

// Exit codes of policy check besides 0, which means allowed.
const (
	exitDenied  = 1
	exitUnknown = 2
)

// Policies is the command line of a command about policies.
type Policies struct {
	command  policiesCommand
	operands []string
	denied   bool // of suggest
}

// policiesCommand is one of the commands about policies.
type policiesCommand struct {
	name     string
	operands string // as the usage shows them
	least    int    // operands
	about    string // its first line for the list of the commands, a sentence
	flags    func(*Policies, *pflag.FlagSet)
	run      func(p *Policies, stdin io.Reader, stdout io.Writer) (code int, err error)
}

func policiesCommands() []policiesCommand {
	return []policiesCommand{
		{name: "check", operands: "FILE [FLOW]", least: 1, run: (*Policies).check,
			about: "Read a policy, and say what would become of a flow.\n" +
				"FLOW is [tcp|udp] NAME|ADDRESS:PORT, icmp NAME|ADDRESS, or in [tcp|udp] from ADDRESS to\n" +
				"PORT; after a NAME, 'at ADDRESS' says where it leads. 'host' before an address says that\n" +
				"it is the host's own. FILE is a policy, '-' for stdin.\n" +
				"Exits with 0 if the flow is allowed, 1 if it is denied, 2 if FILE or FLOW is wrong."},
		{name: "suggest", operands: "LOG", least: 1, run: (*Policies).suggest,
			flags: func(p *Policies, fs *pflag.FlagSet) {
				boolFlag(fs, "denied", "", "allow what was denied as well", &p.denied)
			},
			about: "Print the shortest list of rules that allows what was recorded.\n" +
				"LOG is a file that --policy-log wrote, mostly under a policy with 'learn'; '-' for stdin."},
	}
}

// ParsePolicies reads the command line of the policy command, without that word.
func ParsePolicies(prog string, args []string) (*Policies, *Exit) {
	if len(args) == 0 || args[0] == "--help" || args[0] == "-h" || args[0] == helpCommand {
		return nil, &Exit{Stdout: policiesUsage(prog)}
	}
	p := new(Policies)
	for _, c := range policiesCommands() {
		if c.name == args[0] {
			p.command = c
		}
	}
	c := &p.command
	if c.name == "" {
		var names []string
		for _, c := range policiesCommands() {
			names = append(names, c.name)
		}
		own := prog + " " + policyCommand
		return nil, lineFault(own, noCommand(own, args[0], names))
	}
	fs := newFlags(prog + " " + policyCommand + " " + c.name)
	if c.flags != nil {
		c.flags(p, fs)
	}
	usage := func() string {
		return fmt.Sprintf("Usage: %s %s %s [OPTION]... %s\n%s%s", prog, policyCommand, c.name, c.operands, aboutHelp(c.about), optionsHelp(fs))
	}
	operands, exit := parseFlags(fs, args[1:], usage)
	if exit != nil {
		return nil, exit
	}
	if len(operands) < c.least {
		return nil, lineFault(fs.Name(), missing(c.operands, len(operands)))
	}
	p.operands = operands
	return p, nil
}

func policiesUsage(prog string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Usage: %s %s COMMAND [OPTION]... FILE...\n", prog, policyCommand)
	b.WriteString("What a guest may reach: names, networks and ports, one rule a line.\n\n")
	for _, c := range policiesCommands() {
		about, _, _ := strings.Cut(c.about, "\n")
		writeEntry(&b, fmt.Sprintf("  %-11s", c.name), about)
	}
	fmt.Fprintf(&b, "\n'%s %s COMMAND --help' shows a command's options.\n", prog, policyCommand)
	return b.String()
}

// policiesMain executes the command and returns the exit code.
func policiesMain(prog string, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	p, exit := ParsePolicies(prog, args)
	if exit != nil {
		return exit.write(prog, stdout, stderr)
	}
	code, err := p.command.run(p, stdin, stdout)
	for _, err := range faults(err) {
		lineFault(prog+" "+policyCommand+" "+p.command.name, err).write(prog, stdout, stderr)
	}
	return code
}

// faults splits an error into those to print, one a line.
func faults(err error) []error {
	var all *egress.Errors
	switch {
	case err == nil:
		return nil
	case !errors.As(err, &all):
		return []error{err}
	case all.More > 0:
		return append(all.List, fmt.Errorf("and %d more", all.More))
	}
	return all.List
}

// check says what a policy decides about a flow, or only counts its rules.
func (p *Policies) check(stdin io.Reader, stdout io.Writer) (code int, err error) {
	read := readPolicy
	if p.operands[0] == "-" {
		read = func(name string) (string, error) { return policyText(name, stdin) }
	}
	text, err := read(p.operands[0])
	if err != nil {
		return exitUnknown, err
	}
	policy, err := egress.Parse(egress.Source{File: p.operands[0], Text: text})
	if err != nil {
		return exitUnknown, err
	}
	if len(p.operands) == 1 {
		rules := fmt.Sprintf("%d rules", len(policy.Rules()))
		if rules == "1 rules" {
			rules = "1 rule"
		}
		return told(0, stdout, "%s: %s", p.operands[0], rules)
	}
	flow, err := egress.ParseFlow(strings.Join(p.operands[1:], " "))
	if err != nil {
		return exitUnknown, err
	}
	v := policy.Decide(flow)
	word, code := "denied", exitDenied
	if v.Allow {
		word, code = "allowed", 0
	}
	switch {
	case v.Reason == egress.ByRule:
		return told(code, stdout, "%s by %s: %s", word, v.Rule.Where(), v.Rule.Text)
	case v.Rule != nil:
		return told(code, stdout, "%s: %s, though the name is allowed by %s: %s", word, v.Reason, v.Rule.Where(), v.Rule.Text)
	case v.Reason == egress.ByDefault:
		return told(code, stdout, "%s by default: no rule is about it", word)
	}
	return told(code, stdout, "%s: %s", word, v.Reason)
}

// told prints a line and returns the code, or exitUnknown if printing fails.
func told(code int, stdout io.Writer, format string, args ...any) (int, error) {
	if _, err := fmt.Fprintf(stdout, format+"\n", args...); err != nil {
		return exitUnknown, err
	}
	return code, nil
}

// suggest prints rules for what was recorded.
func (p *Policies) suggest(stdin io.Reader, stdout io.Writer) (code int, err error) {
	if len(p.operands) > 1 {
		return exitUnknown, fmt.Errorf("only one LOG is read, not %q as well: join them with cat", p.operands[1])
	}
	log := stdin
	if path := p.operands[0]; path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return exitUnknown, fmt.Errorf("read records: %w", err)
		}
		defer f.Close()
		log = f
	}
	if err := egress.Suggest(stdout, log, p.denied); err != nil {
		return exitUnknown, fmt.Errorf("%s: %w", p.operands[0], err)
	}
	return 0, nil
}

// checkPolicyPath refuses what names no file. Programs that run long may read a policy again,
// which stdin cannot be.
func checkPolicyPath(path string) error {
	switch path {
	case "":
		return errors.New("read policy: the path is empty")
	case "-":
		return errors.New("read policy: - is stdin, and a policy may be read again later: give the path of a file")
	}
	return nil
}

// wholePolicyPath returns the path for a process in another directory.
func wholePolicyPath(path string) (string, error) {
	if err := checkPolicyPath(path); err != nil {
		return "", err
	}
	return filepath.Abs(path)
}

// readPolicy reads the text of a policy's file.
func readPolicy(path string) (string, error) {
	if err := checkPolicyPath(path); err != nil {
		return "", err
	}
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("read policy: %w", err)
	}
	defer f.Close()
	return policyText(path, f)
}

// policyText reads the text of a policy, but no more than a policy may have.
func policyText(path string, in io.Reader) (string, error) {
	b, err := io.ReadAll(io.LimitReader(in, egress.MaxText+1))
	if err != nil {
		return "", fmt.Errorf("read policy: %w", err)
	}
	if len(b) > egress.MaxText {
		return "", errors.New("read policy: " + path + " is longer than a policy may be, 1 MiB")
	}
	return string(b), nil
}
