package cli

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/pflag"

	"epiphyte/internal/doctor"
)

// doctorCommand shows what guests lack on this host.
const doctorCommand = "doctor"

// doctorFlags are the command's.
func doctorFlags(prog string, json *bool) *pflag.FlagSet {
	fs := newFlags(prog + " " + doctorCommand)
	boolFlag(fs, "json", "", "print JSON", json)
	return fs
}

func doctorUsage(prog string, fs *pflag.FlagSet) string {
	return fmt.Sprintf("Usage: %s %s [OPTION]...\n", prog, doctorCommand) +
		aboutHelp("Say what guests of this user need and lack on this host, and how to mend it.\n"+
			"Exits with 0 if a guest can run, else with 1.") + optionsHelp(fs)
}

// doctorMain examines the host and returns the exit code.
func doctorMain(_ context.Context, prog string, args []string, stdout, stderr io.Writer) int {
	var json bool
	fs := doctorFlags(prog, &json)
	usage := func() string { return doctorUsage(prog, fs) }
	operands, exit := parseFlags(fs, args, usage)
	if exit == nil && len(operands) > 0 {
		exit = lineFault(fs.Name(), fmt.Errorf("%q is one argument too many", operands[0]))
	}
	if exit != nil {
		return exit.write(prog, stdout, stderr)
	}
	r := doctor.Examine()
	var err error
	if json {
		err = printJSON(stdout, r)
	} else {
		err = showReport(stdout, r)
	}
	if err != nil {
		return lineFault(fs.Name(), err).write(prog, stdout, stderr)
	}
	if !r.OK {
		return 1
	}
	return 0
}

// showReport prints the findings, with a remedy for what is lacking.
func showReport(stdout io.Writer, r doctor.Report) error {
	passing := false
	for _, f := range r.Findings {
		passing = passing || strings.HasPrefix(f.Remedy, "sysctl -w ")
		if _, err := fmt.Fprintf(stdout, "%-8s %s: %s\n", f.State, f.Thing, f.Text); err != nil {
			return err
		}
		if f.Remedy != "" {
			fmt.Fprintf(stdout, "         as %s: %s\n", map[string]string{doctor.Root: "root", doctor.You: "yourself"}[f.By], f.Remedy)
		}
	}
	if passing {
		fmt.Fprintln(stdout, "\nWhat sysctl -w sets lasts until the next boot; a file in /etc/sysctl.d keeps it.")
	}
	verdict := "A guest can run."
	if !r.OK {
		verdict = "No guest can run."
	}
	_, err := fmt.Fprintf(stdout, "\n%s\n", verdict)
	return err
}
