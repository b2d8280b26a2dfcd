package cli

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"golang.org/x/sys/unix"

	"epiphyte/internal/api"
	"epiphyte/internal/netdef"
)

// findSuffix ends the names of the sockets by which guests are found; the program's process
// id comes before it.
const findSuffix = ".sock"

// listenFound opens the socket by which the guest is found. The guest works without it, as
// where there is no directory for it.
func (o *Options) listenFound(ctx context.Context, n *guestNetwork, cfg api.Config, r *reporter) {
	dir, err := netdef.GuestsDir()
	if err == nil {
		path := filepath.Join(dir, strconv.Itoa(os.Getpid())+findSuffix)
		var server *api.Server
		if server, err = api.ListenHTTP(ctx, path, cfg); err == nil {
			n.found, n.servers = path, append(n.servers, server)
			return
		}
	}
	r.log.Debug("'epiphyte ps' will not find this guest", "error", err)
}

// describe is the guest as clients of the HTTP socket see it.
func (o *Options) describe(n *guestNetwork) *api.Guest {
	g := &api.Guest{
		Program: os.Getpid(), Version: Version, Command: o.Command, Interface: n.config.Name, Started: time.Now(),
		Process: n.config.Target.PID, NetNS: n.config.Target.NetNS, UserNS: n.config.Target.UserNS,
	}
	if o.Plan.Guest.IsValid() {
		g.IPv4 = o.Plan.Guest.String()
	}
	if o.Plan.Guest6.IsValid() {
		g.IPv6 = o.Plan.Guest6.String()
	}
	return g
}

// foundGuest is a running guest, and the socket of the program that serves it, which all
// members of a network share.
type foundGuest struct {
	*api.Guest
	Network string `json:"network,omitempty"`
	Member  string `json:"member,omitempty"`
	socket  string
}

// id is what --id takes.
func (g foundGuest) id() string {
	if g.Member != "" {
		return g.Network + "/" + g.Member
	}
	return strconv.Itoa(g.Program)
}

// is reports whether id names the guest: by the pid of its program or of a process in it, or
// by the member's name, with or without the network's.
func (g foundGuest) is(id string) bool {
	if n, err := strconv.Atoi(id); err == nil {
		return n == g.Process || n == g.Program && g.Member == ""
	}
	return g.Member != "" && (strings.EqualFold(id, g.Member) || strings.EqualFold(id, g.id()))
}

// name describes the guest in a list of several.
func (g foundGuest) name() string {
	what := g.command()
	switch {
	case what != "":
	case g.Process > 0:
		what = fmt.Sprintf("%s of process %d", g.Interface, g.Process)
	default:
		what = g.Interface + " of " + g.NetNS
	}
	return fmt.Sprintf("%s (%.40s)", g.id(), what)
}

// addressFor returns where clients of a host's address go: the guest's address of the same
// family, if it has one.
func (g foundGuest) addressFor(host netip.Addr) netip.Addr {
	if a, err := netip.ParseAddr(g.IPv6); err == nil && host.Is6() {
		return a
	}
	a, _ := netip.ParseAddr(g.IPv4) // every member has one
	return a
}

// command is the guest's command on one line, empty if it is not known.
func (g foundGuest) command() string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.Join(g.Command, " "))
}

// findGuests lists the user's running guests, the oldest first, and then the members of
// networks, by name. It removes the sockets of programs that have been killed. With an error
// that is about some of the networks it lists the others.
func findGuests(ctx context.Context) (list []foundGuest, err error) {
	dir, err := netdef.GuestsDir()
	if err != nil {
		return nil, err
	}
	sockets, err := filepath.Glob(filepath.Join(dir, "*"+findSuffix))
	if err != nil {
		return nil, err
	}
	for _, path := range sockets {
		c := api.Client{HTTP: path}
		asked, cancel := context.WithTimeout(ctx, answerPatience)
		g, err := c.Guest(asked)
		cancel()
		switch {
		case errors.Is(err, unix.ECONNREFUSED):
			if killed(path) {
				os.Remove(path)
			}
		case err == nil:
			list = append(list, foundGuest{Guest: g, socket: path})
		}
		// Any other is ending, has been stopped, or serves a guest that we are in and answers
		// only the host.
	}
	slices.SortFunc(list, func(a, b foundGuest) int { return a.Started.Compare(b.Started) })
	members, err := findMembers(ctx)
	return append(list, members...), err
}

// killed reports whether the program that a socket is named after is gone. That nobody listens
// is not enough: a program that starts binds its socket before it listens.
func killed(path string) bool {
	pid, err := strconv.Atoi(strings.TrimSuffix(filepath.Base(path), findSuffix))
	return err == nil && unix.Kill(pid, 0) == unix.ESRCH
}

// findMembers lists the members of the user's networks. With an error that is about some of
// the networks it lists the others'.
func findMembers(ctx context.Context) (list []foundGuest, err error) {
	paths, err := netdef.DefaultPaths()
	if err != nil {
		return nil, err
	}
	networks, err := runningNetworks(ctx, paths)
	for _, n := range networks {
		for _, m := range n.Members {
			g := &api.Guest{
				Program: n.Worker, Version: n.Version, Process: m.Process, NetNS: m.NetNS, Command: commandOf(m.Process),
				Interface: m.Interface, IPv4: m.IPv4.String(), Started: m.Since,
			}
			if m.IPv6.IsValid() {
				g.IPv6 = m.IPv6.String()
			}
			list = append(list, foundGuest{g, n.Name, m.Name, paths.API(n.Name)})
		}
	}
	slices.SortFunc(list, func(a, b foundGuest) int { return strings.Compare(a.id(), b.id()) })
	return list, err
}

// commandOf returns the arguments of a process, nil if they are not known.
func commandOf(pid int) []string {
	if pid == 0 {
		return nil
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || len(b) == 0 {
		return nil
	}
	return strings.Split(strings.TrimSuffix(string(b), "\x00"), "\x00")
}

// errNoGuest means that no running guest was found.
var errNoGuest = errors.New("no guest of yours is running that 'ps' would list")

// guestsNamed returns the running guests that id names, or all if id is empty. It is an error
// if there are none; only then does it matter that others may not have been found.
func guestsNamed(ctx context.Context, id string) (named []foundGuest, err error) {
	all, hidden := findGuests(ctx)
	for _, g := range all {
		if id == "" || g.is(id) {
			named = append(named, g)
		}
	}
	switch {
	case len(named) > 0:
		return named, nil
	case hidden != nil:
		return nil, fmt.Errorf("no such guest is found, and not all can be listed: %w", hidden)
	case len(all) == 0:
		return nil, errNoGuest
	}
	return nil, fmt.Errorf("there is no guest %q; running are %s", id, namesOf(all))
}

// onlyGuest returns the guest of a list, which must not be empty. It is an error if there are
// several; name is the id or the network that means them, empty if they are all that run.
func onlyGuest(list []foundGuest, name string) (g foundGuest, err error) {
	switch {
	case len(list) == 1:
		return list[0], nil
	case name == "":
		return g, fmt.Errorf("%d guests are running; choose one by --id: %s", len(list), namesOf(list))
	}
	return g, fmt.Errorf("%q means %d guests; choose one by --id: %s", name, len(list), namesOf(list))
}

func namesOf(list []foundGuest) string {
	var names []string
	for _, g := range list {
		names = append(names, g.name())
	}
	return strings.Join(names, ", ")
}
