package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"epiphyte/internal/namespace"
	"epiphyte/tap"
)

// execCommand runs a command in a guest.
const execCommand = "exec"

// execMain runs a command in a guest, and returns its exit status, or 1 if it could not be
// started.
func execMain(ctx context.Context, prog string, args []string, stdout, stderr io.Writer) int {
	var id string
	fs := newFlags(prog + " " + execCommand)
	fs.VarP(idValue(&id), "id", "i", guestUsage)
	switchFlag(fs, "help", "h", "show this help and exit", func() error {
		return &Exit{Stdout: fmt.Sprintf("Usage: %s %s [OPTION]... [--] [COMMAND [ARG]...]\n", prog, execCommand) +
			aboutHelp("Run COMMAND (default: $SHELL) in the namespaces of a guest that runs.\nIt is root there, or with --map-current of run the user. The program "+
				"exits with its status. Of several guests one is chosen by --id: "+execCommand+" -i NETWORK/MEMBER.") + optionsHelp(fs)}
	})
	options, command, fault := dialect{prog: fs.Name(), operandEnds: true, suggests: true}.getopt(fs, args)
	if err := fs.Parse(options); err != nil {
		fault = err
	}
	if fault != nil {
		return lineFault(fs.Name(), fault).write(prog, stdout, stderr)
	}
	if len(command) == 0 {
		command = []string{shell()}
	}
	status, err := execute(ctx, id, command)
	if err != nil {
		return lineFault(fs.Name(), err).write(prog, stdout, stderr)
	}
	return status
}

// execute runs a command in the guest that id names, or in the only one.
func execute(ctx context.Context, id string, command []string) (status int, err error) {
	target, err := targetOf(ctx, id)
	if err != nil {
		return 0, err
	}
	signals := namespace.CatchSignals()
	defer signals.Close()
	p, err := namespace.Enter(target, command)
	if err != nil {
		return 0, err
	}
	for {
		select {
		case sig := <-signals.C():
			p.Forward(sig)
		case <-p.Done():
			return p.Status()
		}
	}
}

// targetOf returns the namespaces of the guest that id names, or of the only one. A member of
// several networks is one guest.
func targetOf(ctx context.Context, id string) (target tap.Target, err error) {
	list, err := guestsNamed(ctx, id)
	if errors.Is(err, errNoGuest) {
		err = fmt.Errorf("%w; one that another program has started is entered by that, or by nsenter(1)", err)
	}
	if err != nil {
		return target, err
	}
	g, err := onlyGuest(slices.CompactFunc(list, func(a, b foundGuest) bool {
		return a.Process > 0 && a.Process == b.Process || a.NetNS != "" && a.NetNS == b.NetNS
	}), id)
	switch {
	case err != nil:
		return target, err
	case g.Process > 0:
		return tap.Target{PID: g.Process}, nil
	case g.NetNS != "":
		return tap.Target{NetNS: g.NetNS, UserNS: g.UserNS}, nil
	}
	return target, errors.New("the guest's namespaces are not known: its program was given a descriptor")
}
