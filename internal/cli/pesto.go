package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"epiphyte/internal/api"
	"epiphyte/internal/pasta"
)

// pestoName is the name under which we change the ports of a running pasta.
const pestoName = "pesto"

// Pesto is the command line of pesto(1).
type Pesto struct {
	Socket string // of the running program
	Show   bool   // after the change
	Change pasta.Change
	change bool // there is one
}

// pestoPorts is one option that forwards ports, and the action given last before it.
type pestoPorts struct {
	action string
	list   []pasta.Forward
}

// Actions on the ports of pesto's options.
const (
	pestoAdd    = "add"
	pestoDelete = "delete"
)

// ParsePesto reads a command line; args does not contain the name. The second result is
// not nil if the command line alone ends the program.
func ParsePesto(args []string) (*Pesto, *Exit) {
	p := new(Pesto)
	var ports []pestoPorts
	actions := map[string]bool{}
	action := ""
	fs := newFlags(pestoName)
	act := func(name string) func() error {
		return func() error {
			action, actions[name] = name, true
			return nil
		}
	}
	switchFlag(fs, "show", "s", "show the ports, after the change if there is one", func() error { p.Show = true; return nil })
	switchFlag(fs, pestoAdd, "A", "add the PORTS that follow", act(pestoAdd))
	switchFlag(fs, pestoDelete, "D", "delete the PORTS that follow", act(pestoDelete))
	fs.VarP(value{set: func(s string) error {
		p.Change.Clear = append(p.Change.Clear, s)
		_, err := pasta.Table(nil).Apply(p.Change)
		return err
	}}, "clear", "C", "first delete all ports of a `SIDE`: HOST or SPLICE, the namespace's loopback")
	for _, o := range pasta.Options() {
		from, to := "host", "namespace"
		if o.Out() {
			from, to = to, from
		}
		fs.VarP(value{set: func(s string) error {
			list, err := o.Parse(s)
			ports = append(ports, pestoPorts{action, list})
			return err
		}}, o.Name(), o.Letter(), fmt.Sprintf("%s `PORTS` of the %s that lead to the %s", strings.ToUpper(o.Proto()), from, to))
	}
	switchFlag(fs, "help", "h", "show this help and exit", func() error { return &Exit{Stdout: pestoUsage(fs)} })
	switchFlag(fs, "version", "", "show the version and exit", func() error {
		return &Exit{Stdout: fmt.Sprintf("%s (epiphyte %s)\n", pestoName, Version)}
	})
	options, operands, fault := dialect{prog: pestoName}.getopt(fs, args)
	err := fs.Parse(options)
	if err == nil {
		err = fault
	}
	if err == nil && len(operands) != 1 {
		err = errors.New("the path of one socket is required, the one of pasta's -c")
	}
	if err == nil {
		err = p.gather(ports, actions)
	}
	if err != nil {
		return nil, lineFault(pestoName, err)
	}
	p.Socket = operands[0]
	p.Show = p.Show || !p.change
	return p, nil
}

// gather sorts the ports by action. A single action also applies to ports before it. Without
// an action they replace all existing ports, or those that are cleared.
func (p *Pesto) gather(ports []pestoPorts, actions map[string]bool) error {
	p.change = len(ports) > 0 || len(p.Change.Clear) > 0
	only := ""
	switch {
	case len(actions) == 1:
		for only = range actions {
		}
	case len(actions) == 0 && len(ports) > 0 && len(p.Change.Clear) == 0:
		p.Change.Clear = []string{pasta.HostSide, pasta.SpliceSide}
	}
	for _, o := range ports {
		if o.action == "" {
			o.action = only
		}
		switch {
		case o.action == pestoDelete:
			p.Change.Delete = append(p.Change.Delete, o.list...)
		case o.action == "" && len(actions) > 0:
			return errors.New("some PORTS stand before both --add and --delete: put one of them first")
		default:
			p.Change.Add = append(p.Change.Add, o.list...)
		}
	}
	return nil
}

// pestoMain runs pesto and returns the exit code.
func pestoMain(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	p, exit := ParsePesto(args)
	if exit != nil {
		return exit.write(pestoName, stdout, stderr)
	}
	if err := p.run(ctx, stdout); err != nil {
		return lineFault(pestoName, err).write(pestoName, stdout, stderr)
	}
	return 0
}

func (p *Pesto) run(ctx context.Context, stdout io.Writer) error {
	client := api.Client{HTTP: p.Socket}
	if p.change {
		if err := client.ChangeForwards(ctx, p.Change); err != nil {
			return p.explain(err)
		}
	}
	if !p.Show {
		return nil
	}
	table, err := client.Forwards(ctx)
	if err != nil {
		return p.explain(err)
	}
	_, err = fmt.Fprintf(stdout, "passt/pasta configuration (%s)\n%s", p.Socket, table.Show())
	return err
}

// explain says what to do if nobody listens.
func (p *Pesto) explain(err error) error {
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ECONNREFUSED) {
		return fmt.Errorf("%s: nobody listens there: start pasta with -c %s", p.Socket, p.Socket)
	}
	return err
}

func pestoUsage(fs *pflag.FlagSet) string {
	return "Usage: " + pestoName + " [OPTION]... SOCKET\n" +
		"Show or change the ports that a running pasta forwards. SOCKET is the one of its -c.\n" +
		"PORTS is as for pasta, such as 8080:80, 127.0.0.1/8000-8009 or [::]/8080:10.0.0.2/80.\n" +
		"Without --add, --delete and --clear PORTS take the place of all that there are. All of\n" +
		"a change is made, or nothing. What is there may be added, and what is not be deleted.\n\n" +
		fs.FlagUsages()
}
