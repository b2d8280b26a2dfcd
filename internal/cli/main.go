package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path"
	"syscall"

	"epiphyte/internal/netavark"
)

// runCommand is the first argument that selects the run command.
const runCommand = "run"

// helpCommand is taken for --help, of the program and of its network command.
const helpCommand = "help"

// Main is the program: args is the whole argument vector, the name that it was
// called by first. It returns the exit code.
//
// Called as slirp4netns, rootlessport or pesto it is that program alone, without our own
// commands.
func Main(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	prog := "epiphyte"
	if len(args) > 0 && path.Base(args[0]) == netavark.RootlessPort {
		return rootlessPortMain(ctx, stdout, stderr)
	}
	if len(args) > 0 && path.Base(args[0]) == pestoName {
		return pestoMain(ctx, args[1:], stdout, stderr)
	}
	if len(args) > 0 && (isPasta(args[0]) || args[0] == backgroundName) {
		signal.Ignore(syscall.SIGPIPE)
		return pastaMain(ctx, args, stdout, stderr)
	}
	if len(args) > 0 && path.Base(args[0]) == compatible {
		prog = compatible
	}
	if len(args) > 0 {
		args = args[1:]
	}
	// Whoever read our output may be gone; the guest's network must not end
	// with it.
	signal.Ignore(syscall.SIGPIPE)

	if prog != compatible && len(args) > 0 {
		if netavark.IsCommand(args[0]) {
			return pluginMain(ctx, prog, args, stdout, stderr)
		}
		switch args[0] {
		case helpCommand:
			args = []string{"--help"}
		case networkCommand:
			n, exit := ParseNetworks(prog, args[1:])
			if exit != nil {
				return exit.write(stdout, stderr)
			}
			return n.run(ctx, prog, stdout, stderr)
		case policyCommand:
			return policiesMain(prog, args[1:], os.Stdin, stdout, stderr)
		case doctorCommand:
			return doctorMain(prog, args[1:], stdout, stderr)
		case attachCommand:
			a, exit := ParseAttachMember(prog, args[1:])
			if exit != nil {
				return exit.write(stdout, stderr)
			}
			return a.run(ctx, prog, stderr)
		case runCommand:
			r, exit := ParseRun(prog, args[1:])
			if exit != nil {
				return exit.write(stdout, stderr)
			}
			return r.run(ctx, prog, stderr)
		}
		if _, ok := clientNamed(args[0]); ok {
			return clientMain(ctx, prog, args[0], args[1:], stdout, stderr)
		}
	}
	a, exit := ParseAttach(prog, args)
	if exit != nil {
		return exit.write(stdout, stderr)
	}
	io.WriteString(stdout, a.Notices)
	return a.run(ctx, prog, stdout, stderr)
}

// write says what there is to say and returns the code.
func (e *Exit) write(stdout, stderr io.Writer) int {
	if e.Stderr != "" {
		fmt.Fprintln(stderr, e.Stderr)
	}
	io.WriteString(stdout, e.Stdout)
	return e.Code
}
