package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"path"

	"github.com/spf13/pflag"

	"epiphyte/internal/pasta"
)

// Called pastaName we take pasta's command line; backgroundName is the process that does its
// work in the background: the same program, started by itself.
const (
	pastaName      = "pasta"
	backgroundName = "epiphyte-pasta"
)

// isPasta reports whether a name is one of pasta's: distributions build a variant of it for
// newer processors, which callers may name.
func isPasta(name string) bool {
	name = path.Base(name)
	return name == pastaName || name == pastaName+".avx2"
}

// Pasta is pasta's command line, with our own options.
type Pasta struct {
	Options
	Line *pasta.CommandLine
}

// ParsePasta reads a command line; args does not contain the name. The second result is
// not nil if the command line alone ends the program.
func ParsePasta(args []string) (*Pasta, *Exit) {
	p := &Pasta{Options: defaultOptions(pasta.DefaultMTU), Line: pasta.NewCommandLine()}
	fs := newFlags(pastaName)
	p.Line.AddTo(fs)
	p.addOwn(fs, "pcap")
	fs.Lookup("pcap").Annotations = nil // this one is in pasta's contract, too
	switchFlag(fs, "help", "h", "show this help and exit", func() error { return &Exit{Stdout: pastaUsage(fs)} })
	switchFlag(fs, "version", "", "show the version and exit", func() error { return &Exit{Stdout: pastaVersion()} })

	options, operands, fault := dialect{prog: pastaName, operandEnds: true}.getopt(fs, args)
	err := fs.Parse(options)
	if err == nil && fault != nil {
		// Callers search for getopt's words.
		return nil, &Exit{Code: 1, Stderr: fault.Error() + "\n" + pastaForms + "'" + pastaName + " --help' lists the options."}
	}
	if err == nil {
		err = p.Line.Complete(operands)
	}
	if err != nil {
		return nil, lineFault(pastaName, err)
	}
	return p, p.settle(fs)
}

// settle derives the options from the command line.
func (p *Pasta) settle(fs *pflag.FlagSet) *Exit {
	if !fs.Changed("log-level") {
		switch {
		case p.Line.Debug:
			p.LogLevel = slog.LevelDebug
		case p.Line.Quiet, p.Line.NewNamespaces():
			p.LogLevel = slog.LevelWarn
		}
	}
	p.LogFile, p.LogSize, p.StatsEvery = p.Line.LogFile, int64(p.Line.LogSize), p.Line.Stats
	p.MTU = cmp.Or(p.Line.MTU, kernelMTU)
	p.Line.V6.Off = p.Line.V6.Off || p.MTU < minMTU6
	p.setPorts()
	p.Policy.takeEnvironment()
	err := p.Policy.check()
	if err == nil {
		err = p.setUser()
	}
	if err == nil {
		err = p.setOutbound()
	}
	if err != nil {
		return lineFault(pastaName, err)
	}
	return p.check().named(pastaName)
}

const pastaForms = "Usage: pasta [OPTION]... [COMMAND [ARG]...]\n" +
	"       pasta [OPTION]... PID\n" +
	"       pasta [OPTION]... --netns PATH|NAME\n"

func pastaUsage(fs *pflag.FlagSet) string {
	return pastaForms +
		"Give a network namespace a network, without privileges: the one at PATH, the one of the\n" +
		"process PID, or one that is made for COMMAND (default: $SHELL). Works in the background\n" +
		"unless there is a command, and ends with the namespace.\n" +
		"PORTS are such as 8080:80, 127.0.0.1/8000-8009, %eth0/53 or [::]/8080:10.0.0.2/80.\n\n" +
		fs.FlagUsages()
}

func pastaVersion() string {
	commit, gvisor := buildFacts()
	return fmt.Sprintf("%s (epiphyte %s)\ncommit: %s\ngvisor: %s\n", pastaName, Version, commit, gvisor)
}

// pastaMain runs pasta, or its process in the background, and returns the exit code.
func pastaMain(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	p, exit := ParsePasta(args[1:])
	switch {
	case exit != nil:
		return exit.write(pastaName, stdout, stderr)
	case args[0] == backgroundName:
		return p.serveCaller(ctx, stderr)
	case p.Line.NewNamespaces():
		return p.serveCommand(ctx, stderr)
	case p.Line.Foreground:
		return p.serve(ctx, stderr, func() error { return nil })
	}
	return background(args[1:], stderr)
}
