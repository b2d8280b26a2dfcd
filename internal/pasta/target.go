package pasta

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// netnsDir is where named network namespaces are (ip-netns(8)).
const netnsDir = "/run/netns/"

// Target says whose network is served: that of a process, that of a namespace's path, or
// that of a command in namespaces made for it, in this order.
type Target struct {
	PID         int
	NetNS       string // a path
	UserNS      string // a path, to be joined first; empty: the owner of the network
	Command     []string
	NetNSOnly   bool // UserNS is not to be said; a foreign owner is joined all the same
	NoNetNSQuit bool // the program outlives the namespace's path
}

// NewNamespaces reports whether namespaces are made, for Command or, if that is empty, for
// the user's shell.
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

// Complete takes what follows the options, and checks the whole.
func (o *CommandLine) Complete(operands []string) error {
	if err := o.Target.complete(operands); err != nil {
		return err
	}
	switch {
	case o.V4.Off && o.V6.Off:
		return errors.New("--ipv4-only and --ipv6-only leave nothing: give one of them")
	case o.NoDNS && len(o.DNS) > 0:
		return errors.New("--dns none and --dns with an address contradict each other")
	case o.NoSearch && len(o.Search) > 0:
		return errors.New("--search none and --search with domains contradict each other")
	case o.NoTAP:
		return errors.New("--splice-only is not to be had: leave it out; ports of loopback are forwarded beside the interface as well")
	}
	for _, x := range [...]*Family{&o.V4, &o.V6} {
		if x.MapGuest.IsValid() && x.MapGuest == x.MapLoopback {
			return fmt.Errorf("--map-guest-addr and --map-host-loopback are both %v: each needs an address of its own", x.MapGuest)
		}
	}
	return o.Ports.auto()
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
		// A number too large for a process is one that does not exist.
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
