package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"epiphyte/internal/api"
	"epiphyte/internal/netdef"
)

// Client is the command line of one of the commands for a running program:
// ports, publish, unpublish, flows, stats, pcap.
type Client struct {
	command  clientCommand
	api      api.Client
	network  string      // whose HTTP socket to use
	id       string      // of the guest to ask, empty for the only one
	member   *foundGuest // of a network; nil: all of its members, or no network
	operands []string

	json     bool
	guest    string        // publish: the guest address, empty for the guest's own
	interval time.Duration // flows: between tables, 0 for a single table
	snaplen  int           // pcap: bytes of each frame, 0 for all
}

// clientCommand is one of the commands.
type clientCommand struct {
	name     string
	operands string // as the usage shows them, empty for none
	short    string // for the list of all commands
	about    string
	ofMember bool // on a network, it is about one member
	run      func(*Client, context.Context, io.Writer) error
}

// clientCommands lists them in the order of the manual.
func clientCommands() []clientCommand {
	return []clientCommand{
		{name: "ports", short: "list the published ports", about: "List the published ports of a running program.", run: (*Client).ports},
		{name: "publish", operands: "RULE...", short: "publish ports", run: (*Client).publish,
			about: "Publish ports of a running program.\n" +
				"RULE is [HOST:]PORT[-END][:GUESTPORT[-END]][/tcp|/udp]; HOST is an address, IPv6 in\n" +
				"brackets, or an interface. The default is 0.0.0.0: any IPv4 client may connect."},
		{name: "unpublish", operands: "ID...", short: "remove published ports", run: (*Client).unpublish,
			about: "Remove published ports. Existing connections through them stay."},
		{name: "flows", short: "list connections and mappings", about: "List the connections and mappings of a running program.", run: (*Client).flows},
		{name: "top", short: "a live screen: flows by rate, names, refusals, drops", run: (*Client).top,
			about: "Show what a running program's guest does, on a terminal until 'q' is typed.\n" +
				"The head counts flows, DNS queries by what became of them, what was refused, what failed by its error, " +
				"and frames dropped by reason; below are the flows, the busiest first. Elsewhere than on a terminal it is " +
				"shown once, or with --watch again and again."},
		{name: "stats", short: "show the counters", about: "Show the counters of a running program.", run: (*Client).stats},
		{name: "why", operands: "[tcp|udp|icmp] ADDRESS|NAME[:PORT]", short: "what would become of a flow, and by which rule", ofMember: true, run: (*Client).why,
			about: "Say what would become of a connection or datagram of the guest's, and why.\n" +
				"Nothing is sent. The answer is what the program would decide now: allowed, refused, dropped " +
				"or served by itself; where it would lead, by which rule of a policy, and which nameserver is asked."},
		{name: "pcap", short: "capture frames, as pcapng", run: (*Client).pcap,
			about: "Write the frames that cross a running program's TAP to stdout, as pcapng, until\n" +
				"interrupted: for a file, or for tshark -i -. Of a network, each frame of any member's once."},
	}
}

// clientNamed finds a command by its name.
func clientNamed(name string) (clientCommand, bool) {
	for _, c := range clientCommands() {
		if c.name == name {
			return c, true
		}
	}
	return clientCommand{}, false
}

// ParseClient reads the command line of the client command name; args does not
// contain the name. The second result is not nil if the command line alone ends
// the program.
func ParseClient(prog, name string, args []string) (*Client, *Exit) {
	command, ok := clientNamed(name)
	if !ok {
		return nil, &Exit{Code: 1, Stderr: fmt.Sprintf("%s: no command %q", prog, name)}
	}
	c := &Client{command: command}
	fs := newFlags(prog + " " + name)
	fs.VarP(fileValue("api-socket", &c.api.Control), "api-socket", "a", "use the control socket at `PATH`")
	fs.Var(fileValue("http-socket", &c.api.HTTP), "http-socket", "use the HTTP socket at `PATH`")
	fs.Var(networkValue(&c.network), "network", "ask about the network `NAME`")
	fs.VarP(idValue(&c.id), "id", "i", guestUsage)
	if name != "unpublish" && name != "pcap" && name != "top" {
		boolFlag(fs, "json", "", "print JSON, as the HTTP socket does", &c.json)
	}
	switch name {
	case "publish":
		fs.Var(stringValue(&c.guest), "guest", "publish ports of the guest address `ADDR`")
	case "pcap":
		fs.Var(numberValue("snaplen", &c.snaplen, maxSnaplen), "snaplen", "keep `N` bytes of each frame; 0: all")
	case "flows", "top":
		fs.VarPF(secondsValue("watch", &c.interval), "watch", "w", "refresh every `SECONDS` until interrupted, or 'q' is typed").NoOptDefVal = "1"
	}
	usage := func() string { return clientUsage(prog, command, fs) }
	switchFlag(fs, "help", "h", "show this help and exit", func() error { return &Exit{Stdout: usage()} })

	options, operands, fault := dialect{prog: fs.Name(), boolArgument: true, suggests: true}.getopt(fs, args)
	if err := fs.Parse(options); err != nil {
		return nil, lineFault(fs.Name(), err)
	}
	if fault == nil {
		fault = c.check(operands)
	}
	if fault != nil {
		return nil, lineFault(fs.Name(), fault)
	}
	c.operands = operands
	return c, nil
}

func (c *Client) check(operands []string) error {
	switch {
	case c.command.operands == "" && len(operands) > 0:
		return fmt.Errorf("%q is one argument too many", operands[0])
	case c.command.operands != "" && len(operands) == 0:
		return missing(c.command.operands, 0)
	}
	given := 0
	for _, s := range [...]string{c.api.Control, c.api.HTTP, c.network} {
		if s != "" {
			given++
		}
	}
	if c.id != "" {
		given++
	}
	if given > 1 {
		return errors.New("of --api-socket, --http-socket, --network and --id only one can be used")
	}
	return nil
}

// networkValue takes the name of a network.
func networkValue(dst *string) value {
	return value{set: func(s string) error {
		*dst = s
		return netdef.ValidName(s)
	}}
}

// guestUsage is the help of --id.
const guestUsage = "the guest is `ID`, as 'ps' shows it: a number, or NETWORK/MEMBER"

// idValue takes the id of a guest.
func idValue(dst *string) value {
	return value{set: func(s string) error {
		*dst = s
		if n, err := strconv.Atoi(s); s == "" || err == nil && n <= 0 {
			return fmt.Errorf("--id: %q is not a guest, as 'ps' shows them: a number, or NETWORK/MEMBER", s)
		}
		return nil
	}}
}

// find chooses the socket to ask: the one named, or else that of the only running guest.
func (c *Client) find(ctx context.Context) error {
	switch {
	case c.api.Control != "" || c.api.HTTP != "":
		return nil
	case c.network == "":
		return c.findGuest(ctx)
	}
	paths, err := netdef.DefaultPaths()
	if err != nil {
		return err
	}
	c.api.HTTP = paths.API(c.network)
	if _, err := os.Stat(c.api.HTTP); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("network %s is not running", c.network)
	}
	if !c.command.ofMember {
		return nil
	}
	members, err := findMembers(ctx)
	members = slices.DeleteFunc(members, func(g foundGuest) bool { return g.Network != c.network })
	if len(members) == 0 {
		return cmp.Or(err, fmt.Errorf("network %s has no members", c.network))
	}
	return c.choose(members)
}

// findGuest finds the guest that the id names, or the only one.
func (c *Client) findGuest(ctx context.Context) error {
	list, err := guestsNamed(ctx, c.id)
	if errors.Is(err, errNoGuest) {
		err = fmt.Errorf("%w; name the socket of one that another program has started, by --http-socket or --api-socket", err)
	}
	if err != nil {
		return err
	}
	return c.choose(list)
}

// choose takes the only guest of a list.
func (c *Client) choose(list []foundGuest) error {
	g, err := onlyGuest(list, cmp.Or(c.id, c.network))
	if err != nil {
		return err
	}
	c.api.HTTP = g.socket
	if g.Member != "" {
		c.member = &g
	}
	return nil
}

// clientMainOf returns the main function of a client command.
func clientMainOf(c clientCommand) commandMain {
	return func(ctx context.Context, prog string, args []string, stdout, stderr io.Writer) int {
		return clientMain(ctx, prog, c.name, args, stdout, stderr)
	}
}

// clientMain runs a client command and returns the exit code. args does not
// contain the command's name.
func clientMain(ctx context.Context, prog, name string, args []string, stdout, stderr io.Writer) int {
	c, exit := ParseClient(prog, name, args)
	if exit != nil {
		return exit.write(prog, stdout, stderr)
	}
	err := c.find(ctx)
	if err == nil {
		err = c.command.run(c, ctx, stdout)
	}
	if err == nil {
		return 0
	}
	exit = lineFault(prog+" "+name, c.explain(err))
	if err == errEnded {
		exit.Code = 0
	}
	return exit.write(prog, stdout, stderr)
}

// explain says what it means that a socket does not answer.
func (c *Client) explain(err error) error {
	path := cmp.Or(c.api.HTTP, c.api.Control)
	var dial *net.OpError
	if !errors.As(err, &dial) || dial.Op != "dial" {
		return err
	}
	switch {
	case errors.Is(err, unix.ECONNREFUSED):
		return fmt.Errorf("no program listens on %s any more", path)
	case errors.Is(err, unix.ENOENT):
		return fmt.Errorf("there is no socket %s: give the path that the program was started with, or see 'epiphyte ps'", path)
	case errors.Is(err, unix.EACCES):
		return fmt.Errorf("the socket %s belongs to another user: run as that one, or as root", path)
	}
	return err
}

func clientUsage(prog string, c clientCommand, fs *pflag.FlagSet) string {
	var b strings.Builder
	b.WriteString(strings.TrimRight(fmt.Sprintf("Usage: %s %s [OPTION]... %s", prog, c.name, c.operands), " "))
	fmt.Fprintf(&b, "\n%s%s", aboutHelp(c.about), optionsHelp(fs))
	return b.String()
}
