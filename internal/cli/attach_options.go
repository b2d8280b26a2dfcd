package cli

import (
	"errors"
	"fmt"
	"net"
	"os"
	"unicode"

	"github.com/spf13/pflag"

	"epiphyte/internal/addressing"
	"epiphyte/tap"
)

// Attach is the command line of the attach command: existing namespaces, and the TAP to serve
// in them.
type Attach struct {
	Options
	Target    tap.Target
	Name      string // of the TAP; empty with a TAP fd
	Bess      string // in place of Target: the socket on which to wait for a client that sends frames
	Configure bool   // link up, MTU, MAC, address, default route
	MAC       net.HardwareAddr
	ReadyFD   FD
	ExitFD    FD
	// ExitWithTarget ends the program when the target's process ends.
	ExitWithTarget bool
	Notices        string // for stdout before anything else, a line each
}

// The kinds of target, as --netns-type names them. Every other word means
// netnsPath, as callers of the original could rely on.
const (
	netnsPath  = "path"
	netnsPID   = "pid"
	netnsTapFD = "tapfd"
)

// ifNameLen is the longest interface name the kernel takes (IFNAMSIZ - 1).
const ifNameLen = 15

// attachParser holds the result, and flag values that do not belong to it.
type attachParser struct {
	Attach
	prog      string
	cidr      string
	cidr6     string
	netnsType string
	userns    string
	mac       string
	ipv6      bool
	bess      bool
	netnsSet  bool // --netns-type was given
}

// ParseAttach reads the command line of the attach command. prog is the name
// that we were called by. The second result is not nil if the command line alone ends the
// program; the first is valid only otherwise.
func ParseAttach(prog string, args []string) (*Attach, *Exit) {
	p := &attachParser{
		Attach:    Attach{Options: defaultOptions(1500)},
		prog:      prog,
		cidr:      addressing.DefaultIPv4().String(),
		cidr6:     addressing.DefaultIPv6().String(),
		netnsType: netnsPID,
	}
	exit := p.parse(args)
	if exit != nil {
		exit.Stdout = p.Notices + exit.Stdout
		if prog != compatible {
			exit = exit.named(prog)
		}
		return nil, exit
	}
	return &p.Attach, nil
}

func (p *attachParser) parse(args []string) *Exit {
	fs := p.flags()
	usage := func() string { return attachUsage(p.prog, fs) }

	// The options before a fault are acted upon first: one of them may end the program.
	options, operands, fault := dialect{prog: p.prog, suggests: p.prog != compatible}.getopt(fs, args)
	if err := fs.Parse(options); err != nil {
		return p.fault(err, usage)
	}
	if fault != nil {
		return p.fault(fault, usage)
	}
	if p.mac != "" && !p.Configure {
		return p.fault(errors.New("--macaddr cannot be specified when --configure or -c is not specified"), usage)
	}
	if err := p.target(operands); err != nil {
		return p.fault(err, usage)
	}
	if len(p.Expose) > 0 && (p.bess || p.netnsType == netnsTapFD) {
		return p.fault(errors.New("--expose-host needs to know the guest's network namespace: name a PID or a PATH, not a descriptor or a socket"), usage)
	}
	if p.Queues > 1 && (p.bess || p.netnsType == netnsTapFD) {
		return p.fault(errors.New("--queues needs to make the TAP: name a PID or a PATH, not a descriptor or a socket"), usage)
	}
	if p.ExitWithTarget && p.Target.PID == 0 {
		return p.fault(errors.New("--exit-with-target needs a process: name a PID"), usage)
	}
	p.Policy.takeEnvironment()
	if err := p.Policy.check(); err != nil {
		return p.fault(err, usage)
	}
	if fs.Changed("cidr6") && !p.ipv6 {
		return invalid("--cidr6 has no effect without IPv6: add --enable-ipv6 (-6)")
	}
	if p.ipv6 && p.Configure && p.MTU < minMTU6 {
		p.ipv6 = false
		p.notice(fmt.Sprintf("WARNING: no IPv6: an MTU of %d is below its least, %d", p.MTU, minMTU6))
	}
	if p.Unconfined && (p.RequireFiles || p.RequireCalls) {
		return p.fault(errors.New("--sandbox=off contradicts --enable-sandbox and --enable-seccomp"), usage)
	}
	if p.Unconfined {
		p.notice(unconfined)
	}
	if exit := p.setPlan(p.cidr, p.cidr6, p.ipv6); exit != nil {
		return exit
	}
	if p.mac != "" {
		mac, err := parseMAC(p.mac)
		if err != nil {
			return &Exit{Code: 1, Stderr: err.Error()}
		}
		p.MAC = mac
	}
	if p.Quiet {
		p.Notices = ""
	}
	p.FindSocket = p.byHand()
	return p.check()
}

// byHand reports whether a person has most likely typed the command line: another program
// passes a descriptor to learn when we are ready, or to end us. Only a person looks for a
// running guest by 'ps', and a caller of the contract expects no file that it did not name.
func (p *attachParser) byHand() bool {
	return p.prog != compatible && !p.ReadyFD.given && !p.ExitFD.given && !p.bess
}

// fault returns the Exit for a command line that cannot be read.
func (p *attachParser) fault(err error, usage func() string) *Exit {
	var exit *Exit
	switch {
	case errors.As(err, &exit):
		return exit
	case p.prog == compatible:
		return usageError(ofValue(err).Error(), usage())
	}
	return lineFault(p.prog, err)
}

// bessTarget reads the operand of --target-type=bess.
func (p *attachParser) bessTarget(operands []string) error {
	for _, c := range []struct {
		given bool
		name  string
	}{{p.Configure, "configure"}, {p.netnsSet, "netns-type"}, {p.userns != "", "userns-path"}} {
		if c.given {
			return fmt.Errorf("--%s conflicts with --target-type=bess", c.name)
		}
	}
	switch {
	case len(operands) == 0:
		return p.missing(operands)
	case len(operands) > 1:
		return errors.New("too many arguments")
	}
	p.Bess = operands[0]
	return nil
}

// target reads the operands.
func (p *attachParser) target(operands []string) error {
	if p.bess {
		return p.bessTarget(operands)
	}
	want := 2
	if p.netnsType == netnsTapFD {
		want = 1
	}
	if len(operands) > 0 && p.isMistyped(operands[0]) {
		return noCommand(p.prog, operands[0], commandNames())
	}
	if len(operands) < want {
		return p.missing(operands)
	}
	if len(operands) > want {
		// Not an error: callers pass a stray argument.
		p.notice("WARNING: too many arguments")
	}
	switch p.netnsType {
	case netnsTapFD:
		fd, err := parseInt(operands[0])
		if err != nil || fd < 0 || operands[0] == "" {
			return errors.New("TAPFD must a file descriptor")
		}
		p.Target.FD = fd
		return nil
	case netnsPID:
		pid, err := parseInt(operands[0])
		if err != nil || pid <= 0 {
			return errors.New("PID must be a positive integer")
		}
		p.Target.PID = pid
		if p.userns != "" {
			p.Target = tap.Target{NetNS: fmt.Sprintf("/proc/%d/ns/net", pid), UserNS: p.userns}
		}
	default:
		if _, err := os.Stat(operands[0]); err != nil {
			return fmt.Errorf("existing path expected when --netns-type=path: %s", errnoText(err))
		}
		p.Target.NetNS = operands[0]
		p.Target.UserNS = p.userns
	}
	p.Name = operands[1]
	if len(p.Name) > ifNameLen {
		p.Name = p.Name[:ifNameLen]
	}
	return nil
}

// missing returns the error for too few operands. The contract's has no text: only the usage
// is printed.
func (p *attachParser) missing(operands []string) error {
	switch {
	case p.prog == compatible:
		return errors.New("")
	case p.bess:
		return errors.New("SOCKET is missing: the path of the socket to wait at")
	case p.netnsType == netnsTapFD:
		return errors.New("FD is missing: the number of an open TAP descriptor")
	case len(operands) == 0:
		return fmt.Errorf("a command, or a process and the name of its interface, is missing; '%s --help' shows both", p.prog)
	}
	return fmt.Errorf("TAPNAME is missing, the name of the interface: '%s ... %s tap0'", p.prog, operands[0])
}

// isMistyped reports whether a word in the PID's place was meant to be one of our own
// commands, which slirp4netns does not have.
func (p *attachParser) isMistyped(operand string) bool {
	return p.prog != compatible && p.netnsType == netnsPID && isWord(operand)
}

// isWord reports whether an argument is neither an option, a number nor a path.
func isWord(s string) bool { return s != "" && unicode.IsLetter(rune(s[0])) }

func (p *attachParser) notice(line string) { p.Notices += line + "\n" }

// flags declares every option, in the order of --help.
func (p *attachParser) flags() *pflag.FlagSet {
	fs := newFlags(p.prog)

	set := func(dst *bool, notice string) func() error {
		return func() error {
			*dst = true
			if notice != "" {
				p.notice(notice)
			}
			return nil
		}
	}
	switchFlag(fs, "configure", "c", "bring lo and the TAP up: MTU, MAC, address, default route", set(&p.Configure, ""))
	fs.VarP(fdValue("exit-fd", &p.ExitFD), "exit-fd", "e", "end when the other side of `FD` is closed")
	fs.VarP(fdValue("ready-fd", &p.ReadyFD), "ready-fd", "r", "write \"1\" to `FD` once the network works")
	fs.VarP(mtuValue(&p.MTU), "mtu", "m", fmt.Sprintf("set the `MTU` in bytes, at most %d", maxMTU))
	switchFlag(fs, "enable-ipv6", "6", "enable IPv6", set(&p.ipv6, "WARNING: Support for IPv6 is experimental"))
	fs.VarP(socketValue(apiSocket, &p.APISocket), "api-socket", "a", "accept slirp4netns's JSON requests on the socket `PATH`")
	fs.Var(stringValue(&p.cidr), "cidr", "use the IPv4 subnet `CIDR` for the guest")
	switchFlag(fs, "disable-host-loopback", "", "refuse connections to the host's 127.0.0.1 and ::1 through the gateway address",
		set(&p.DisableHostLoopback, ""))
	switchFlag(fs, "no-host-loopback", "", "deprecated alias of --disable-host-loopback",
		set(&p.DisableHostLoopback, "WARNING: --no-host-loopback is deprecated, use --disable-host-loopback"))
	fs.Var(value{initial: p.netnsType, set: func(s string) error { p.netnsType, p.netnsSet = s, true; return nil }}, "netns-type", "the first argument is a `TYPE`: path, pid, tapfd")
	fs.Var(usernsPathValue(&p.userns), "userns-path", "join the user namespace `PATH` as well")
	experimental := func(option string) { p.notice("WARNING: Support for " + option + " is experimental") }
	fs.Var(outboundValue("", p.Source.SetIPv4, experimental), "outbound-addr", "send IPv4 from the `ADDRESS`, or from that of an interface")
	fs.Var(outboundValue("6", p.Source.SetIPv6, experimental), "outbound-addr6", "send IPv6 from the `ADDRESS`, or from that of an interface")
	switchFlag(fs, "enable-sandbox", "", "end unless the kernel can close the host's files to us (Landlock)", set(&p.RequireFiles, ""))
	switchFlag(fs, "create-sandbox", "", "deprecated alias of --enable-sandbox",
		set(&p.RequireFiles, "WARNING: --create-sandbox is deprecated, use --enable-sandbox"))
	switchFlag(fs, "enable-seccomp", "", "end unless the kernel can restrict our system calls (seccomp)", set(&p.RequireCalls, ""))
	switchFlag(fs, "disable-dns", "", "do not forward the guest's DNS address to the host's name servers", set(&p.DisableDNS, ""))
	fs.Var(stringValue(&p.mac), "macaddress", "give the TAP the `MAC` address (with -c)")
	fs.Var(p.targetType(), "target-type", "serve a `TYPE`: netns, or bess (a SOCK_SEQPACKET socket, one frame a message)")
	own(switchFlag(fs, "exit-with-target", "", "end when the process PID does", set(&p.ExitWithTarget, "")))
	own(fs.VarPF(stringValue(&p.cidr6), "cidr6", "", "use the IPv6 network `CIDR`, a /64, with -6"))
	p.addOwn(fs, "publish")
	switchFlag(fs, "help", "h", "show this help and exit", func() error {
		return &Exit{Stdout: attachUsage(p.prog, fs)}
	})
	switchFlag(fs, "version", "v", "show the version and exit", func() error {
		return &Exit{Stdout: versionText(p.prog)}
	})
	return fs
}

// targetType is the value of --target-type.
func (p *attachParser) targetType() value {
	return value{initial: "netns", set: func(s string) error {
		if s != "netns" && s != "bess" {
			return errors.New(`--target-type must be either "netns" or "bess"`)
		}
		p.bess = s == "bess"
		return nil
	}}
}

// attachUsage is the text of --help. Callers search it for option names.
func attachUsage(prog string, fs *pflag.FlagSet) string {
	line := fmt.Sprintf("Usage: %s [OPTION]... PID|PATH|FD [TAPNAME]\n", prog)
	about := "Give a network to an unprivileged network namespace that exists.\n"
	if prog == compatible {
		return line + about + optionsHelp(fs, optionGroups()...)
	}
	return fmt.Sprintf("Usage: %s COMMAND [OPTION]... [ARG]...\n", prog) +
		"A network for rootless containers and other unprivileged namespaces.\n" +
		commandsHelp() +
		fmt.Sprintf("\n'%s COMMAND --help' shows a command's options. Without a command:\n\n", prog) +
		line + about + optionsHelp(fs, optionGroups()...)
}
