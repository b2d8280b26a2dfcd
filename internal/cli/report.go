package cli

import (
	"fmt"
	"io"
	"log/slog"
	"strings"
)

// reporter writes what the program says of itself: its log, and the one line
// that explains an unsuccessful end.
type reporter struct {
	prog   string
	stderr io.Writer
	json   bool
	log    *slog.Logger
}

func newReporter(prog string, o *Options, stderr io.Writer) *reporter {
	stderr = unhindered(stderr)
	r := &reporter{prog: prog, stderr: stderr, json: o.LogFormat == logJSON}
	opts := &slog.HandlerOptions{Level: o.LogLevel}
	if r.json {
		r.log = slog.New(slog.NewJSONHandler(stderr, opts))
	} else {
		r.log = slog.New(slog.NewTextHandler(stderr, opts))
	}
	return r
}

// fail writes err as one line whatever the log level, for it is what callers
// show to their users. It returns the exit code.
func (r *reporter) fail(err error) int {
	line := oneLine(err.Error())
	if r.json {
		r.log.Error(line)
	} else {
		fmt.Fprintf(r.stderr, "%s: %s\n", r.prog, line)
	}
	return 1
}

// oneLine joins the lines of s (an errors.Join, a quoted output).
func oneLine(s string) string {
	return strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
}
