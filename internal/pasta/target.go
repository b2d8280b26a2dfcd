package pasta

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// netnsDir is where named network namespaces are (ip-netns(8)).
const netnsDir = "/run/netns/"

// Target is the namespace to serve: that of a process, the one at a path, or one made for a
// command, in this order.
type Target struct {
	PID         int
	NetNS       string // a path
	UserNS      string // a path, to be joined first; empty: the owner of the network
	Command     []string
	NetNSOnly   bool // UserNS must not be given; a foreign owner is joined all the same
	NoNetNSQuit bool // the program outlives the namespace's path
}

// NewNamespaces reports whether namespaces are made: for Command, or if that is empty for the
// user's shell.
func (t *Target) NewNamespaces() bool { return t.PID == 0 && t.NetNS == "" }

func (t *Target) addTo(f flags) {
	f.fs.Func("netns", "serve the network namespace `PATH`, or NAME in "+netnsDir, func(s string) error {
		switch {
		case s == "":
			return errors.New("--netns is empty: name a path, or a namespace in " + netnsDir)
		case strings.Contains(s, "/"):
			t.NetNS = s
		default:
			t.NetNS = netnsDir + s
		}
		return nil
	})
	f.text(&t.UserNS, "userns", "", "join the user namespace `PATH`, not the one that owns the network")
	f.on(&t.NetNSOnly, "netns-only", "", "the default: join the user namespace that owns the network, unless it is ours")
	f.on(&t.NoNetNSQuit, "no-netns-quit", "", "go on when the path of the network namespace is gone")
}

// Complete takes the operands, and checks the whole.
func (o *CommandLine) Complete(operands []string) error {
	if err := o.Target.complete(operands); err != nil {
		return err
	}
	switch {
	case o.NoDNS && len(o.DNS) > 0:
		return errors.New("--dns none and --dns with an address contradict each other")
	case o.NoSearch && len(o.Search) > 0:
		return errors.New("--search none and --search with domains contradict each other")
	case o.HostLoToGuestLo && o.NoSplice:
		return errors.New("--host-lo-to-ns-lo and --no-splice contradict each other: no interface leads to a loopback")
	case o.NoTAP && o.NoSplice:
		return errors.New("--splice-only and --no-splice leave no way for any port: give one of them")
	}
	for _, x := range [...]*Family{&o.V4, &o.V6} {
		if x.MapGuest.IsValid() && x.MapGuest == x.MapLoopback {
			return fmt.Errorf("--map-guest-addr and --map-host-loopback are both %v: each needs an address of its own", x.MapGuest)
		}
	}
	for _, f := range o.Forwards {
		if o.off(f.Option) {
			return fmt.Errorf("--no-%s and %v contradict each other", f.Option.Proto(), f)
		}
	}
	return o.Ports.auto(o.off)
}

// off reports whether the protocol of an option is not carried.
func (l *Link) off(option Option) bool {
	return l.NoTCP && option.Proto() == HostTCP.Proto() || l.NoUDP && option.Proto() == HostUDP.Proto()
}

func (t *Target) complete(operands []string) error {
	if t.UserNS != "" && t.NetNSOnly {
		return errors.New("--userns and --netns-only contradict each other")
	}
	if t.NetNS != "" {
		if len(operands) > 0 {
			return fmt.Errorf("--netns and %q: give the path of a namespace, or a PID or command", operands[0])
		}
		return nil
	}
	if len(operands) == 1 {
		// A number too large for a process is a process that does not exist.
		if n, err := strconv.ParseInt(operands[0], 10, 32); err == nil || errors.Is(err, strconv.ErrRange) {
			if err != nil || n <= 0 {
				return fmt.Errorf("%s is not the number of a process", operands[0])
			}
			t.PID = int(n)
			return nil
		}
	}
	if t.UserNS != "" || t.NetNSOnly {
		return errors.New("--userns and --netns-only are about a namespace that exists: add --netns or a PID")
	}
	t.Command = operands
	return nil
}
