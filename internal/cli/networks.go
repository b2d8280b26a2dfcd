package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/netip"
	"strings"

	"github.com/spf13/pflag"

	"epiphyte/internal/netdef"
	"epiphyte/internal/network"
)

// networkCommand is the first argument of the commands about networks.
const networkCommand = "network"

// Networks is the command line of a command about networks.
type Networks struct {
	command  networksCommand
	operands []string

	definition netdef.Definition // of create
	json       bool
	force      bool // of rm
	stay       bool // of serve
	attach     AttachMember
}

// networksCommand is one of the commands about networks.
type networksCommand struct {
	name     string
	operands string // as the usage shows them
	least    int    // operands
	most     int
	about    string // its first line for the list of the commands, a sentence
	flags    func(*Networks, *pflag.FlagSet)
	run      func(*Networks, context.Context, *env) error
}

// env is where a command runs.
type env struct {
	prog           string
	paths          netdef.Paths
	stdout, stderr io.Writer
}

// unlimited is the most operands of commands that take any number of networks.
const unlimited = math.MaxInt

// networksCommands lists them in the order of the manual.
func networksCommands() []networksCommand {
	return []networksCommand{
		{name: "ls", about: "List the networks that are defined or running.", flags: jsonFlag, run: (*Networks).list},
		{name: "inspect", operands: "NAME", least: 1, most: 1, flags: jsonFlag, run: (*Networks).inspect,
			about: "Show a network and its members."},
		{name: "create", operands: "NAME", least: 1, most: 1, flags: createFlags, run: (*Networks).create,
			about: "Define a network, for when its first member comes.\nOne without a definition has the defaults."},
		{name: "rm", operands: "NAME...", least: 1, most: unlimited, flags: removeFlags, run: (*Networks).remove,
			about: "Remove the definitions of networks, and end the networks if they have no members."},
		{name: "start", operands: "NAME...", least: 1, most: unlimited, run: (*Networks).start,
			about: "Start networks in the background.\nOne that is not defined to stay ends when nobody joins it."},
		{name: "connect", operands: "NAME PID|PATH [INTERFACE]", least: 2, most: 3, flags: connectFlags, run: (*Networks).connect,
			about: "Make a network namespace a member, in the background.\nIt is that of the process PID, or at PATH, and a member until it is disconnected or the\nprocess ends. INTERFACE is its device; the default is the first of eth0, eth1, ...\nthat is free."},
		{name: "disconnect", operands: "NAME MEMBER", least: 2, most: 2, run: (*Networks).disconnect,
			about: "Have a member leave, by its name."},
		{name: "policy", operands: "NAME MEMBER [FILE]", least: 2, most: 3, flags: policyCommandFlags, run: (*Networks).policy,
			about: "Have the rules in FILE say what a member may reach from now on, or show its rules.\nWithout FILE, each rule stands beside how often it has decided."},
		{name: "upgrade", operands: "NAME...", least: 1, most: unlimited, run: (*Networks).upgrade,
			about: "Have this program go on in place of a network's process.\nMembers keep their addresses and what they say to each other; connections to outside are\nreset."},
		{name: "serve", operands: "NAME", least: 1, most: 1, flags: serveFlags, run: (*Networks).serve,
			about: "Serve a network in the foreground until it is empty.\nMembers start this by themselves; a service manager may, too."},
	}
}

func jsonFlag(n *Networks, fs *pflag.FlagSet) {
	boolFlag(fs, "json", "", "print JSON", &n.json)
}

func createFlags(n *Networks, fs *pflag.FlagSet) {
	d := &n.definition
	fs.Var(prefixValue("subnet", "IPv4", "10.90.7.0/24", netip.Addr.Is4, &d.Subnet), "subnet", "use the IPv4 subnet `CIDR`; the default is a free /24 of 10.90.0.0/16")
	fs.Var(prefixValue("subnet6", "IPv6", "fd90:0:0:7::/64", netip.Addr.Is6, &d.Subnet6), "subnet6", "use the IPv6 subnet `CIDR`, a /64; the default is a free one of fd90::/56")
	boolFlag(fs, "ipv4-only", "", "have no IPv6", &d.IPv4Only)
	fs.Var(mtuValue(&d.MTU), "mtu", "set the members' `MTU` in bytes; the default is 65520")
	fs.Var(fileValue("policy", &d.Policy), "policy", "let each member reach what the rules in `FILE` allow, unless it brings others; read whenever one joins")
	boolFlag(fs, "internal", "", "let members reach each other and nothing else", &d.Internal)
	boolFlag(fs, "isolate", "", "let members reach outside but not each other", &d.Isolate)
	boolFlag(fs, "allow-host-loopback", "", "let members reach the host's 127.0.0.1 and ::1 by the gateway's address", &d.AllowHostLoopback)
	boolFlag(fs, "disable-dns", "", "answer no DNS queries", &d.NoDNS)
	boolFlag(fs, "stay", "", "stay when the network is empty, for members that cannot start it", &d.Stay)
}

func removeFlags(n *Networks, fs *pflag.FlagSet) {
	boolFlag(fs, "force", "f", "end the networks even if they have members", &n.force)
}

func serveFlags(n *Networks, fs *pflag.FlagSet) {
	boolFlag(fs, "stay", "", "stay when the network is empty, for members that cannot start it", &n.stay)
}

func connectFlags(n *Networks, fs *pflag.FlagSet) {
	n.attach.Options = defaultOptions(0)
	n.attach.Detached = true
	n.attach.addWishes(fs)
	n.attach.addCommon(fs)
}

func prefixValue(name, kind, example string, family func(netip.Addr) bool, dst *netip.Prefix) value {
	return value{set: func(s string) error {
		p, err := netip.ParsePrefix(s)
		if err != nil || !family(p.Addr()) {
			return fmt.Errorf("--%s: %q is not an %s subnet, such as %s", name, s, kind, example)
		}
		*dst = p
		return nil
	}}
}

// newFlags returns an empty set that prints nothing: it only returns errors.
func newFlags(name string) *pflag.FlagSet {
	fs := pflag.NewFlagSet(name, pflag.ContinueOnError)
	fs.SortFlags = false
	fs.SetOutput(io.Discard)
	return fs
}

// parseFlags sets the flags in args, --help among them, and returns the operands.
func parseFlags(fs *pflag.FlagSet, args []string, usage func() string) ([]string, *Exit) {
	switchFlag(fs, "help", "h", "show this help and exit", func() error { return &Exit{Stdout: usage()} })
	options, operands, fault := dialect{prog: fs.Name(), boolArgument: true, suggests: true}.getopt(fs, args)
	if err := fs.Parse(options); err != nil {
		return nil, lineFault(fs.Name(), err)
	}
	if fault != nil {
		return nil, lineFault(fs.Name(), fault)
	}
	return operands, nil
}

// ParseNetworks reads the command line of the network command, without that word.
func ParseNetworks(prog string, args []string) (*Networks, *Exit) {
	if len(args) == 0 || args[0] == "--help" || args[0] == "-h" || args[0] == helpCommand {
		return nil, &Exit{Stdout: networksUsage(prog)}
	}
	n := &Networks{}
	for _, c := range networksCommands() {
		if c.name == args[0] {
			n.command = c
		}
	}
	c := &n.command
	if c.name == "" {
		var names []string
		for _, c := range networksCommands() {
			names = append(names, c.name)
		}
		own := prog + " " + networkCommand
		return nil, lineFault(own, noCommand(own, args[0], names))
	}
	fs := newFlags(prog + " " + networkCommand + " " + c.name)
	if c.flags != nil {
		c.flags(n, fs)
	}
	usage := func() string {
		line := strings.TrimRight(fmt.Sprintf("Usage: %s %s %s [OPTION]... %s", prog, networkCommand, c.name, c.operands), " ")
		return fmt.Sprintf("%s\n%s%s", line, aboutHelp(c.about), optionsHelp(fs))
	}
	operands, exit := parseFlags(fs, args[1:], usage)
	if exit != nil {
		return nil, exit
	}
	if len(operands) < c.least {
		return nil, lineFault(fs.Name(), missing(c.operands, len(operands)))
	}
	if len(operands) > c.most {
		return nil, lineFault(fs.Name(), fmt.Errorf("%q is one argument too many", operands[c.most]))
	}
	names := operands
	if c.most != unlimited { // the first is a network, the others are members or processes
		names = operands[:min(len(operands), 1)]
	}
	for _, name := range names {
		if err := netdef.ValidName(name); err != nil {
			return nil, lineFault(fs.Name(), err)
		}
	}
	n.operands = operands
	return n, nil
}

func networksUsage(prog string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Usage: %s %s COMMAND [OPTION]... [NAME]...\n", prog, networkCommand)
	b.WriteString(aboutHelp("Networks of several guests, which find each other by name.\nA guest joins one by "+
		"'run --network NAME' or 'attach --network NAME PID'; it is started when need be.") + "\n")
	for _, c := range networksCommands() {
		about, _, _ := strings.Cut(c.about, "\n")
		writeEntry(&b, fmt.Sprintf("  %-11s", c.name), about)
	}
	fmt.Fprintf(&b, "\n'%s %s COMMAND --help' shows a command's options.\n", prog, networkCommand)
	return b.String()
}

// run executes the command and returns the exit code.
func (n *Networks) run(ctx context.Context, prog string, stdout, stderr io.Writer) int {
	paths, err := netdef.DefaultPaths()
	if err == nil {
		err = n.command.run(n, ctx, &env{prog, paths, stdout, stderr})
	}
	var code exitCode
	switch {
	case err == nil:
		return 0
	case errors.As(err, &code):
		return int(code)
	}
	return lineFault(prog+" "+networkCommand+" "+n.command.name, err).write(prog, stdout, stderr)
}

// exitCode is an error that has already been reported.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

func (n *Networks) create(ctx context.Context, e *env) error {
	d := n.definition
	d.Name = n.operands[0]
	if d.Policy != "" {
		var err error
		if d.Policy, err = wholePolicyPath(d.Policy); err != nil {
			return err
		}
		if _, err := (PolicyOptions{File: d.Policy}).ofMember(); err != nil {
			return err
		}
	}
	if err := d.Validate(); err != nil {
		return err
	}
	if _, there, err := e.paths.Load(d.Name); err != nil || there {
		if err == nil {
			err = fmt.Errorf("network %s is there already: epiphyte network rm %s, or choose another name", d.Name, d.Name)
		}
		return err
	}
	if c, err := network.Dial(e.paths.Socket(d.Name)); err == nil {
		c.Close()
		return fmt.Errorf("network %s is running, without a definition: epiphyte network rm %s, or choose another name", d.Name, d.Name)
	}
	if err := e.paths.Save(d); err != nil {
		return err
	}
	fmt.Fprintln(e.stdout, d.Name)
	return nil
}

func (n *Networks) remove(ctx context.Context, e *env) error {
	var failed []error
	for _, name := range n.operands {
		if err := n.removeOne(ctx, e, name); err != nil {
			failed = append(failed, fmt.Errorf("network %s: %w", name, err))
		}
	}
	return errors.Join(failed...)
}

func (n *Networks) removeOne(ctx context.Context, e *env, name string) error {
	c, info, err := network.Inspect(ctx, e.paths.Socket(name))
	running := err == nil
	if err != nil && err != network.ErrNotRunning {
		return err
	}
	if running {
		defer c.Close()
		if len(info.Members) > 0 && !n.force {
			return fmt.Errorf("it has members (%s): have them leave, or use --force", memberNames(info.Members))
		}
	}
	_, defined, err := e.paths.Load(name)
	switch {
	case err != nil && !n.force:
		return fmt.Errorf("%w; --force removes it all the same", err)
	case !defined && err == nil && !running:
		return errors.New("it is neither defined nor running")
	}
	if defined || err != nil { // an unreadable one is removed, too
		if err := e.paths.Remove(name); err != nil {
			return err
		}
	}
	if !running {
		return nil
	}
	if err := c.Stop(ctx); err != nil {
		return err
	}
	// The user may want to make it anew at once.
	return network.AwaitEnd(ctx, e.paths, name)
}

// memberNames lists the names of the first members, for an error.
func memberNames(members []network.Member) string {
	const most = 5
	var list []string
	for _, m := range members[:min(len(members), most)] {
		list = append(list, m.Name)
	}
	if len(members) > most {
		list = append(list, fmt.Sprintf("and %d more", len(members)-most))
	}
	return strings.Join(list, ", ")
}

func (n *Networks) connect(ctx context.Context, e *env) error {
	a := &n.attach
	a.Networks = n.operands[:1]
	if err := a.setTarget(n.operands[1:]); err != nil {
		return err
	}
	if code := a.run(ctx, e.prog, e.stderr); code != 0 {
		return exitCode(code)
	}
	return nil
}

func (n *Networks) disconnect(ctx context.Context, e *env) error {
	return n.ask(ctx, e, n.operands[0], func(c *network.Client) error { return c.Leave(ctx, n.operands[1]) })
}

func (n *Networks) start(ctx context.Context, e *env) error {
	var failed []error
	for _, name := range n.operands {
		if err := startOne(ctx, e, name); err != nil {
			failed = append(failed, err)
		}
	}
	return errors.Join(failed...)
}

// startOne starts a defined network. Others are started by their first member, so a name that
// is neither defined nor running was mistyped.
func startOne(ctx context.Context, e *env, name string) error {
	_, defined, err := e.paths.Load(name)
	if err == nil && !defined {
		if c, _, err := network.Inspect(ctx, e.paths.Socket(name)); err == nil {
			c.Close()
			return nil
		}
		return fmt.Errorf("there is no network %s: 'epiphyte network ls' lists them, 'epiphyte network create %[1]s' makes it", name)
	}
	if err == nil {
		var c *network.Client
		if c, _, err = network.Open(ctx, e.paths.Socket(name), network.Start(e.paths, name)); err == nil {
			return c.Close()
		}
	}
	return fmt.Errorf("network %s: %w", name, err)
}

func (n *Networks) upgrade(ctx context.Context, e *env) error {
	program, err := programPath()
	if err != nil {
		return err
	}
	for _, name := range n.operands {
		if err := n.ask(ctx, e, name, func(c *network.Client) error { return c.Upgrade(ctx, program) }); err != nil {
			return err
		}
		// The new program answers once it serves.
		if err := n.ask(ctx, e, name, func(*network.Client) error { return nil }); err != nil {
			return err
		}
	}
	return nil
}

// ask calls do with a connection to a running network.
func (n *Networks) ask(ctx context.Context, e *env, name string, do func(*network.Client) error) error {
	c, _, err := network.Open(ctx, e.paths.Socket(name), nil)
	if err == nil {
		defer c.Close()
		err = do(c)
	}
	if err != nil {
		return fmt.Errorf("network %s: %w", name, err)
	}
	return nil
}
