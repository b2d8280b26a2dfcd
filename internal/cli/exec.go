package cli

import (
	"context"
	"errors"
	"fmt"
	"io"

	"epiphyte/internal/namespace"
	"epiphyte/tap"
)

// execCommand is the first argument that runs a command in a guest.
const execCommand = "exec"

// execMain runs a command in a guest, and returns its exit status, or 1 if it could not be
// started.
func execMain(ctx context.Context, prog string, args []string, stdout, stderr io.Writer) int {
	var id int
	fs := newFlags(prog + " " + execCommand)
	fs.VarP(idValue(&id), "id", "i", "in the guest with the number `ID`, as 'ps' shows it")
	switchFlag(fs, "help", "h", "show this help and exit", func() error {
		return &Exit{Stdout: fmt.Sprintf("Usage: %s %s [OPTION]... [--] [COMMAND [ARG]...]\n", prog, execCommand) +
			aboutHelp("Run COMMAND (default: $SHELL) in the namespaces of a guest that runs.\nIt is root there. The program "+
				"exits with its status. Of several guests one is chosen by --id.") + optionsHelp(fs)}
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

// execute runs a command in the guest with that number, or in the only one.
func execute(ctx context.Context, id int, command []string) (status int, err error) {
	g, err := findGuest(ctx, id)
	if errors.Is(err, errNoGuest) {
		err = fmt.Errorf("%w; members of networks and guests of container engines are not entered this way", err)
	}
	if err != nil {
		return 0, err
	}
	target := tap.Target{PID: g.Process}
	if g.Process == 0 {
		target = tap.Target{NetNS: g.NetNS, UserNS: g.UserNS}
	}
	if target == (tap.Target{}) {
		return 0, errors.New("the guest's namespaces are not known: its program was given a descriptor")
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
