package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"epiphyte/internal/netdef"
	"epiphyte/internal/network"
)

// listed is a network as ls shows it.
type listed struct {
	netdef.Definition
	Running bool `json:"running"`
	Members int  `json:"members"`
}

func (n *Networks) list(ctx context.Context, e *env) error {
	defined, listErr := e.paths.List() // broken ones do not hide the others
	running, runErr := runningNetworks(ctx, e.paths)
	all := []listed{}
	for _, info := range running {
		all = append(all, listed{info.Definition, true, len(info.Members)})
	}
	for _, d := range defined {
		if !contains(all, d.Name) {
			all = append(all, listed{Definition: d})
		}
	}
	slices.SortFunc(all, func(a, b listed) int { return strings.Compare(a.Name, b.Name) })
	if err := n.showList(e.stdout, all); err != nil {
		return err
	}
	return errors.Join(listErr, runErr)
}

// answerPatience is how long a list waits for each program on it, which answers within
// milliseconds unless it has been stopped.
const answerPatience = 2 * time.Second

// runningNetworks inspects all running networks that answer. With an error, which names
// broken definitions, it returns the others.
func runningNetworks(ctx context.Context, paths netdef.Paths) (list []*network.Info, err error) {
	running, err := paths.Running().List()
	for _, d := range running {
		ctx, cancel := context.WithTimeout(ctx, answerPatience)
		c, info, err := network.Inspect(ctx, paths.Socket(d.Name))
		cancel()
		if err != nil {
			continue // it has just ended, was killed, or does not answer
		}
		c.Close()
		list = append(list, info)
	}
	return list, err
}

func contains(all []listed, name string) bool {
	for _, l := range all {
		if l.Name == name {
			return true
		}
	}
	return false
}

func (n *Networks) showList(stdout io.Writer, all []listed) error {
	if n.json {
		return printJSON(stdout, all)
	}
	w := table(stdout)
	fmt.Fprintln(w, "NAME\tSUBNET\tIPV6 SUBNET\tMEMBERS\tOPTIONS")
	for _, l := range all {
		members := "-"
		if l.Running {
			members = fmt.Sprint(l.Members)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", l.Name, or(l.Subnet.IsValid(), l.Subnet), or(l.Subnet6.IsValid(), l.Subnet6), members, options(&l.Definition))
	}
	return w.Flush()
}

// or shows a value in a table, "-" if it is not valid.
func or(valid bool, v fmt.Stringer) string {
	if !valid {
		return "-"
	}
	return v.String()
}

// options are the definition's switches as words.
func options(d *netdef.Definition) string {
	var words []string
	for _, o := range []struct {
		on   bool
		word string
	}{
		{d.Internal, "internal"}, {d.Isolate, "isolate"}, {d.IPv4Only, "ipv4-only"},
		{d.AllowHostLoopback, "host-loopback"}, {d.NoDNS, "no-dns"}, {d.Stay, "stay"},
	} {
		if o.on {
			words = append(words, o.word)
		}
	}
	if len(words) == 0 {
		return "-"
	}
	return strings.Join(words, ",")
}

func (n *Networks) inspect(ctx context.Context, e *env) error {
	name := n.operands[0]
	c, info, err := network.Inspect(ctx, e.paths.Socket(name))
	if err == network.ErrNotRunning {
		d, defined, err := e.paths.Load(name)
		switch {
		case err != nil:
			return err
		case !defined:
			return fmt.Errorf("there is no network %s", name)
		}
		info = &network.Info{Definition: d, Members: []network.Member{}}
	} else if err != nil {
		return err
	} else {
		defer c.Close()
	}
	if n.json {
		return printJSON(e.stdout, info)
	}
	return showInfo(e.stdout, info)
}

func showInfo(stdout io.Writer, info *network.Info) error {
	w := table(stdout)
	fmt.Fprintf(w, "network\t%s\n", info.Name)
	fmt.Fprintf(w, "subnets\t%s %s\n", or(info.Subnet.IsValid(), info.Subnet), or(info.Subnet6.IsValid(), info.Subnet6))
	fmt.Fprintf(w, "gateway and DNS\t%s %s\n", or(info.Gateway.IsValid(), info.Gateway), or(info.Gateway6.IsValid(), info.Gateway6))
	fmt.Fprintf(w, "options\t%s\n", options(&info.Definition))
	if info.Worker != 0 {
		fmt.Fprintf(w, "processes\t%d, kept by %d\n", info.Worker, info.Keeper)
	} else {
		fmt.Fprintln(w, "processes\tnone, it is not running")
	}
	if err := w.Flush(); err != nil {
		return err
	}
	w = table(stdout)
	fmt.Fprintln(w, "\nMEMBER\tALIASES\tIPV4\tIPV6\tPORTS\tIN\tOUT\tDROPPED\tPOLICY\tDENIED\tSINCE")
	for _, m := range info.Members {
		s := m.Stats
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%d\t%d\t%d\t%s\t%d\t%s\n", m.Name, words(m.Aliases), m.IPv4, or(m.IPv6.IsValid(), m.IPv6),
			words(m.Publish), s.ToBytes, s.FromBytes, s.Spoofed+s.Other+s.Rate, cmp.Or(m.Policy, "-"), m.Denied, m.Since.Local().Format(time.DateTime))
	}
	return w.Flush()
}

func words(list []string) string {
	if len(list) == 0 {
		return "-"
	}
	return strings.Join(list, ",")
}
