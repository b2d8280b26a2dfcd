package cli

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/pflag"

	"epiphyte/internal/addressing"
)

// Run is the command line of the run command, which runs a command in new namespaces.
type Run struct {
	Options
	MemberOptions
	MapAuto      bool   // the user's subordinate ids are in the guest as well
	MapCurrent   bool   // the command keeps the caller's ids
	FixedIPv6    bool   // --cidr6 was given
	KillChildren bool   // end what the command leaves running
	Notices      string // for stderr before anything else, a line each
}

// runMTU is the MTU of a network that only we and the kernel see: the largest multiple of 16,
// as callers of the contract choose it.
const runMTU = 65520

// minMTU6 is the least MTU of an IPv6 link in bytes (RFC 8200, 5). The kernel
// turns IPv6 off on an interface with less.
const minMTU6 = 1280

// ParseRun reads the command line of the run command, without the word run. The
// second result is not nil if the command line alone ends the program.
func ParseRun(prog string, args []string) (*Run, *Exit) {
	r := &Run{Options: defaultOptions(runMTU)}
	r.FindSocket = true
	cidr, cidr6, ipv6 := addressing.DefaultIPv4().String(), addressing.DefaultIPv6().String(), true

	fs := newFlags(prog + " " + runCommand)
	fs.VarP(mtuValue(&r.MTU), "mtu", "m", fmt.Sprintf("set the `MTU` in bytes, at most %d", maxMTU))
	fs.Var(stringValue(&cidr), "cidr", "use the IPv4 subnet `CIDR`")
	fs.Var(stringValue(&cidr6), "cidr6", "use the IPv6 network `CIDR`, a /64")
	boolFlag(fs, "ipv6", "6", "have IPv6 as well; --ipv6=false for IPv4 only", &ipv6)
	switchFlag(fs, "enable-ipv6", "", "the same as --ipv6, which is the default", func() error { ipv6 = true; return nil })
	boolFlag(fs, "disable-host-loopback", "", "refuse connections to the host's 127.0.0.1 and ::1, which the gateway address leads to", &r.DisableHostLoopback)
	boolFlag(fs, "disable-dns", "", "do not forward DNS, and leave resolv.conf as it is", &r.DisableDNS)
	fs.Var(outboundValue("", r.Source.SetIPv4, func(string) {}), "outbound-addr", "send IPv4 from the `ADDRESS`, or from that of an interface")
	fs.Var(outboundValue("6", r.Source.SetIPv6, func(string) {}), "outbound-addr6", "send IPv6 from the `ADDRESS`, or from that of an interface")
	fs.VarP(socketValue(apiSocket, &r.APISocket), "api-socket", "a", "accept slirp4netns's JSON requests on the socket `PATH`")
	r.addOwn(fs, "publish")
	r.MemberOptions.addTo(fs)
	boolFlag(fs, "map-auto", "", "have the user's subordinate ids (/etc/subuid) as well, for what changes users", &r.MapAuto)
	boolFlag(fs, "map-current", "", "have the command keep its user and group, without root's rights", &r.MapCurrent)
	boolFlag(fs, "kill-children", "", "end what the command leaves running, by a PID namespace", &r.KillChildren)
	usage := func() string { return runUsage(prog, fs) }
	switchFlag(fs, "help", "h", "show this help and exit", func() error { return &Exit{Stdout: usage()} })

	options, operands, fault := dialect{prog: fs.Name(), operandEnds: true, boolArgument: true, suggests: true}.getopt(fs, args)
	if err := fs.Parse(options); err != nil {
		return nil, lineFault(fs.Name(), err)
	}
	if fault != nil {
		return nil, lineFault(fs.Name(), fault)
	}
	r.Command = operands
	if len(r.Command) == 0 {
		r.Command = []string{shell()}
	}
	if err := r.checkNetworks(fs); err != nil {
		return nil, lineFault(fs.Name(), err)
	}
	if len(r.Networks) == 0 {
		r.Policy.takeEnvironment()
		if err := r.Policy.check(); err != nil {
			return nil, lineFault(fs.Name(), err)
		}
	}
	r.FixedIPv6 = fs.Changed("cidr6")
	if r.FixedIPv6 && !ipv6 {
		return nil, invalid("--cidr6 has no effect without IPv6: leave --ipv6=false out").named(fs.Name())
	}
	if r.MTU < minMTU6 && ipv6 {
		ipv6 = false
		r.Notices = fmt.Sprintf("%s: no IPv6: an MTU of %d is below its least, %d\n", fs.Name(), r.MTU, minMTU6)
	}
	if r.Unconfined {
		r.Notices += fmt.Sprintf("%s: %s\n", fs.Name(), unconfined)
	}
	if r.Quiet {
		r.Notices = ""
	}
	if exit := r.setPlan(cidr, cidr6, ipv6); exit != nil {
		return nil, exit.named(fs.Name())
	}
	if exit := r.check(); exit != nil {
		return nil, exit.named(fs.Name())
	}
	return r, nil
}

// checkNetworks refuses options that the network decides, not a member.
func (r *Run) checkNetworks(fs *pflag.FlagSet) error {
	if err := r.checkWishes(); err != nil || len(r.Networks) == 0 {
		return err
	}
	for _, name := range [...]string{"mtu", "cidr", "cidr6", "ipv6", "enable-ipv6", "disable-host-loopback"} {
		if fs.Changed(name) {
			return fmt.Errorf("--%s is the network's to decide: see epiphyte network create --help", name)
		}
	}
	for _, name := range [...]string{"disable-dns", "outbound-addr", "outbound-addr6", "api-socket", "http-socket", "resolv-conf", "no-offload", "queues", "publish-mode", "expose-host", "pcap", "pcap-size", "pcap-snaplen", "stats"} {
		if fs.Changed(name) {
			return fmt.Errorf("--%s does not go with --network: several guests share the network's process", name)
		}
	}
	return nil
}

// shell is the user's own, as su(1) and script(1) choose it.
func shell() string {
	if s := os.Getenv("SHELL"); s != "" {
		return s
	}
	return "/bin/sh"
}

// runUsage is the text of run --help.
func runUsage(prog string, fs *pflag.FlagSet) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Usage: %s run [OPTION]... [--] [COMMAND [ARG]...]\n", prog)
	b.WriteString(aboutHelp("Run COMMAND (default: $SHELL) with a network of its own.\n" +
		"It is root of its own user, network and mount namespaces, with a resolv.conf (see --map-auto, --map-current). The program " +
		"exits with its status. The host's 127.0.0.1 and ::1 are reachable as the gateway address " +
		"(10.0.2.2, fd00::2), unless --disable-host-loopback is given."))
	b.WriteString(optionsHelp(fs, optionGroups()...))
	return b.String()
}
