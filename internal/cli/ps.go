package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"time"
)

// psCommand lists the running guests.
const psCommand = "ps"

// psMain lists the running guests, and returns the exit code.
func psMain(ctx context.Context, prog string, args []string, stdout, stderr io.Writer) int {
	var json bool
	fs := newFlags(prog + " " + psCommand)
	boolFlag(fs, "json", "", "print JSON", &json)
	operands, exit := parseFlags(fs, args, func() string {
		return fmt.Sprintf("Usage: %s %s [OPTION]...\n", prog, psCommand) +
			aboutHelp("List the running guests of the user: those of 'run', namespaces given a network by hand, and the "+
				"members of networks.\nNot listed are guests that another program has started, by the name slirp4netns or pasta or "+
				"with a descriptor (-r, -e): container engines list theirs, and the other commands ask them by the sockets "+
				"that they were started with.") + optionsHelp(fs)
	})
	if exit == nil && len(operands) > 0 {
		exit = lineFault(fs.Name(), fmt.Errorf("%q is one argument too many", operands[0]))
	}
	if exit != nil {
		return exit.write(prog, stdout, stderr)
	}
	list, hidden := findGuests(ctx) // broken networks do not hide the others
	err := hidden
	if len(list) > 0 || hidden == nil {
		err = cmp.Or(showGuests(stdout, list, json), hidden)
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
			Guests []foundGuest `json:"guests"`
		}{append([]foundGuest{}, list...)}
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
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%v\t%.60s\n", g.id(), process, g.Interface, g.IPv4, wholeSeconds(time.Since(g.Started).Seconds()), what)
	}
	return w.Flush()
}
