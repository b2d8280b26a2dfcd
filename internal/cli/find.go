package cli

import (
	"context"
	"errors"
	"fmt"
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

// listenFound opens the socket by which the guest is found. One that cannot be made, as
// where there is no directory for it, takes nothing from the guest.
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

// foundGuest is a running guest, and its socket.
type foundGuest struct {
	*api.Guest
	socket string
}

// name is what a guest is called in a list of several.
func (g foundGuest) name() string {
	what := g.command()
	if what == "" {
		what = g.Interface + " of " + g.NetNS
		if g.Process > 0 {
			what = fmt.Sprintf("%s of process %d", g.Interface, g.Process)
		}
	}
	return fmt.Sprintf("%d (%.40s)", g.Program, what)
}

// command is what runs in the guest, on one line, empty if that is not known.
func (g foundGuest) command() string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.Join(g.Command, " "))
}

// findGuests lists the running guests of the user, the one that has run longest first. The
// sockets of programs that have been killed are removed.
func findGuests(ctx context.Context) (list []foundGuest, err error) {
	dir, err := netdef.GuestsDir()
	if err != nil {
		return nil, err
	}
	sockets, err := filepath.Glob(filepath.Join(dir, "*"+findSuffix))
	for _, path := range sockets {
		c := api.Client{HTTP: path}
		g, err := c.Guest(ctx)
		switch {
		case errors.Is(err, unix.ECONNREFUSED):
			os.Remove(path) // its program was killed
		case err == nil:
			list = append(list, foundGuest{g, path})
		}
		// Anything else is ending, or a guest around this one, which answers its host alone.
	}
	slices.SortFunc(list, func(a, b foundGuest) int { return a.Started.Compare(b.Started) })
	return list, err
}

// errNoGuest is said where no guest runs that says of itself that it does.
var errNoGuest = errors.New("no guest of yours is running that could be found")

// findGuest is the only running guest, or the one that id names: by the number of the
// program, or of a process in the guest.
func findGuest(ctx context.Context, id int) (g foundGuest, err error) {
	all, err := findGuests(ctx)
	if err != nil {
		return g, err
	}
	var names []string
	for _, g := range all {
		if id > 0 && (g.Program == id || g.Process == id) {
			return g, nil
		}
		names = append(names, g.name())
	}
	switch {
	case len(all) == 0:
		return g, errNoGuest
	case id > 0:
		return g, fmt.Errorf("no guest has the number %d; running are %s", id, strings.Join(names, ", "))
	case len(all) > 1:
		return g, fmt.Errorf("%d guests are running; choose one by --id: %s", len(all), strings.Join(names, ", "))
	}
	return all[0], nil
}
