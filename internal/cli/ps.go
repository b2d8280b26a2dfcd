package cli

import (
	"context"
	"fmt"
	"io"
	"time"

	"epiphyte/internal/api"
)

// psCommand is the first argument that lists the running guests.
const psCommand = "ps"

// psMain lists the running guests, and returns the exit code.
func psMain(ctx context.Context, prog string, args []string, stdout, stderr io.Writer) int {
	var json bool
	fs := newFlags(prog + " " + psCommand)
	boolFlag(fs, "json", "", "print JSON", &json)
	operands, exit := parseFlags(fs, args, func() string {
		return fmt.Sprintf("Usage: %s %s [OPTION]...\n", prog, psCommand) +
			aboutHelp("List the running guests of the user.\nThey are those of 'run', and of namespaces given a network by hand. "+
				"Guests of networks are listed by 'network inspect', and those of container engines by these.") + optionsHelp(fs)
	})
	if exit == nil && len(operands) > 0 {
		exit = lineFault(fs.Name(), fmt.Errorf("%q is one argument too many", operands[0]))
	}
	if exit != nil {
		return exit.write(prog, stdout, stderr)
	}
	list, err := findGuests(ctx)
	if err == nil {
		err = showGuests(stdout, list, json)
	}
	if err != nil {
		return lineFault(fs.Name(), err).write(prog, stdout, stderr)
	}
	return 0
}

// showGuests prints guests as a table or as JSON.
func showGuests(stdout io.Writer, list []foundGuest, json bool) error {
	if json {
		doc := struct {
			Guests []*api.Guest `json:"guests"`
		}{[]*api.Guest{}}
		for _, g := range list {
			doc.Guests = append(doc.Guests, g.Guest)
		}
		return printJSON(stdout, doc)
	}
	w := table(stdout)
	fmt.Fprintln(w, "ID\tPROCESS\tINTERFACE\tADDRESS\tAGE\tCOMMAND")
	for _, g := range list {
		process, what := fmt.Sprint(g.Process), g.command()
		if g.Process == 0 {
			process = "-"
		}
		if what == "" {
			what = "-"
		}
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%v\t%.60s\n", g.Program, process, g.Interface, g.IPv4, wholeSeconds(time.Since(g.Started).Seconds()), what)
	}
	return w.Flush()
}
