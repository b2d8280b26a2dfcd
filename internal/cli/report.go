package cli

import (
	"fmt"
	"io"
	"log/slog"
	"strings"

	"epiphyte/internal/logfile"
)

// reporter writes the program's log, and the one line that explains an unsuccessful end.
type reporter struct {
	prog   string
	stderr io.Writer
	json   bool
	log    *slog.Logger
	file   *logfile.File // of the log; nil: it goes to stderr
}

func newReporter(prog string, o *Options, stderr io.Writer) *reporter {
	r := &reporter{prog: prog, stderr: unhindered(stderr), json: o.LogFormat == logJSON}
	w := r.stderr
	if !r.json {
		w = prefixed{prog + ": ", w}
	}
	r.log = r.logger(w, o)
	return r
}

// prefixed begins every line with the program's name: the guest's command may have the same
// stderr.
type prefixed struct {
	prefix string
	w      io.Writer
}

// Write implements io.Writer; a handler writes a line at a time.
func (p prefixed) Write(line []byte) (int, error) {
	if _, err := p.w.Write(append([]byte(p.prefix), line...)); err != nil {
		return 0, err
	}
	return len(line), nil
}

func (r *reporter) logger(w io.Writer, o *Options) *slog.Logger {
	opts := &slog.HandlerOptions{Level: o.LogLevel}
	if r.json {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}

// fail writes err as one line whatever the log level, since callers show it to their users.
// It returns the exit code.
func (r *reporter) fail(err error) int {
	line := oneLine(err.Error())
	if r.file != nil {
		r.log.Error(line)
	}
	if r.json {
		slog.New(slog.NewJSONHandler(r.stderr, nil)).Error(line)
	} else {
		fmt.Fprintf(r.stderr, "%s: %s\n", r.prog, line)
	}
	return 1
}

// close closes the log file, if there is one.
func (r *reporter) close() {
	if r.file != nil {
		r.file.Close()
	}
}

// oneLine joins the lines of s (an errors.Join, a quoted output).
func oneLine(s string) string {
	return strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
}
