package cli

import (
	"context"
	"fmt"
	"io"
	"os/signal"
	"path"
	"syscall"

	"epiphyte/internal/netavark"
)

// Main is the program: args is the whole argument vector, beginning with the name that it was
// called by. It returns the exit code.
//
// Called as slirp4netns, pasta, rootlessport or pesto it is that program alone, without our
// own commands.
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
	// The guest's network must not end because the reader of our output has gone.
	signal.Ignore(syscall.SIGPIPE)

	if prog != compatible && len(args) > 0 {
		if run, ok := ownCommand(args); ok {
			return run(ctx, prog, args[1:], stdout, stderr)
		}
	}
	a, exit := ParseAttach(prog, args)
	if prog != compatible && exit != nil && exit.Code == 0 && len(args) > 0 && isWord(args[0]) { // help about no command
		exit = lineFault(prog, noCommand(prog, args[0], commandNames()))
	}
	if exit != nil {
		return exit.write(prog, stdout, stderr)
	}
	io.WriteString(stdout, a.Notices)
	return a.run(ctx, prog, stdout, stderr)
}

// write prints both texts and returns the code, or 1 if stdout cannot be written to. It says
// so, unless stdout is a pipe that nobody reads any more.
func (e *Exit) write(prog string, stdout, stderr io.Writer) int {
	var err error
	if e.Stdout != "" { // a full device refuses even nothing
		_, err = io.WriteString(stdout, e.Stdout)
	}
	if e.Stderr != "" {
		fmt.Fprintln(stderr, e.Stderr)
	}
	if err == nil {
		return e.Code
	}
	if !unread(err) {
		fmt.Fprintf(stderr, "%s: %v\n", prog, err)
	}
	return 1
}
