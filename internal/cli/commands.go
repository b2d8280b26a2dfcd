package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"

	"epiphyte/internal/netavark"
)

// Words that select a command.
const (
	runCommand     = "run"
	helpCommand    = "help" // the same as --help, of the program and of any command
	versionCommand = "version"
)

// command is one that slirp4netns does not have.
type command struct {
	name    string
	purpose string // the heading that it is listed under
	about   string // for the list, less than a line
	main    commandMain
}

// commandMain executes a command and returns the exit code. args does not contain its name.
type commandMain func(ctx context.Context, prog string, args []string, stdout, stderr io.Writer) int

// commands lists them in the order of the help text.
func commands() []command {
	const guests, running, several, others = "Guests", "A running guest", "Networks and policies", "Others"
	list := []command{
		{runCommand, guests, "run a command with a network of its own", runMain},
		{attachCommand, guests, "make namespaces that exist members of a network", attachMemberMain},
	}
	list = append(list,
		command{psCommand, running, "list the running guests", psMain},
		command{execCommand, running, "run a command in a guest", execMain})
	for _, c := range clientCommands() {
		list = append(list, command{c.name, running, c.short, clientMainOf(c)})
	}
	return append(list,
		command{networkCommand, several, "networks of several guests, which find each other by name", networksMain},
		command{policyCommand, several, "what a guest may reach: check rules, and make some of a log", policiesCommandMain},
		command{doctorCommand, others, "what guests lack on this host, and what mends it", doctorMain},
		command{helpCommand, others, "help about a command: 'help run' is 'run --help'", helpMain},
		command{versionCommand, others, "the program's versions", versionMain},
	)
}

// commandNamed finds a command by its name.
func commandNamed(name string) (command, bool) {
	for _, c := range commands() {
		if c.name == name {
			return c, true
		}
	}
	return command{}, false
}

// commandNames are those of all commands.
func commandNames() (names []string) {
	for _, c := range commands() {
		names = append(names, c.name)
	}
	return names
}

func runMain(ctx context.Context, prog string, args []string, stdout, stderr io.Writer) int {
	r, exit := ParseRun(prog, args)
	if exit != nil {
		return exit.write(prog, stdout, stderr)
	}
	return r.run(ctx, prog+" "+runCommand, stderr)
}

func attachMemberMain(ctx context.Context, prog string, args []string, stdout, stderr io.Writer) int {
	a, exit := ParseAttachMember(prog, args)
	if exit != nil {
		return exit.write(prog, stdout, stderr)
	}
	return a.run(ctx, prog+" "+attachCommand, stderr)
}

func networksMain(ctx context.Context, prog string, args []string, stdout, stderr io.Writer) int {
	n, exit := ParseNetworks(prog, args)
	if exit != nil {
		return exit.write(prog, stdout, stderr)
	}
	return n.run(ctx, prog, stdout, stderr)
}

func policiesCommandMain(_ context.Context, prog string, args []string, stdout, stderr io.Writer) int {
	return policiesMain(prog, args, os.Stdin, stdout, stderr)
}

func helpMain(ctx context.Context, prog string, args []string, stdout, stderr io.Writer) int {
	if len(args) == 0 || args[0] == "--help" || args[0] == "-h" || args[0] == helpCommand {
		_, exit := ParseAttach(prog, []string{"--help"})
		return exit.write(prog, stdout, stderr)
	}
	c, ok := commandNamed(args[0])
	if !ok {
		return lineFault(prog+" "+helpCommand, noCommand(prog, args[0], commandNames())).write(prog, stdout, stderr)
	}
	most := 1
	if c.name == networkCommand || c.name == policyCommand {
		most = 2 // a subcommand may follow
	}
	if len(args) > most {
		return lineFault(prog+" "+helpCommand, fmt.Errorf("%q is one argument too many", args[most])).write(prog, stdout, stderr)
	}
	if c.name == versionCommand {
		return versionMain(ctx, prog, nil, stdout, stderr)
	}
	return c.main(ctx, prog, append(slices.Clone(args[1:]), "--help"), stdout, stderr)
}

func versionMain(_ context.Context, prog string, args []string, stdout, stderr io.Writer) int {
	if len(args) > 0 && args[0] != "--help" && args[0] != "-h" {
		return lineFault(prog+" "+versionCommand, fmt.Errorf("%q is one argument too many", args[0])).write(prog, stdout, stderr)
	}
	return (&Exit{Stdout: versionText(prog)}).write(prog, stdout, stderr)
}

// ownCommand finds the command that args begin with, podman's plugin among them.
func ownCommand(args []string) (commandMain, bool) {
	if netavark.IsCommand(args[0]) {
		return func(ctx context.Context, prog string, _ []string, stdout, stderr io.Writer) int {
			return pluginMain(ctx, prog, args, stdout, stderr)
		}, true
	}
	c, ok := commandNamed(args[0])
	return c.main, ok
}
