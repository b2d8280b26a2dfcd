package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"

	"github.com/spf13/pflag"
)

// Exit is the end of the program decided by its command line alone: a code and
// the exact text of both streams. It is an error so that a flag's value can end
// the parsing by returning it.
type Exit struct {
	Code   int
	Stdout string
	Stderr string // without a final newline: Main adds it
}

// Error is the text for stderr.
func (e *Exit) Error() string { return e.Stderr }

// usageError is the contract's answer to every fault of the command line:
// code 1, the message on stderr and the whole usage on stdout. Under our own name a message
// is not scrolled away.
func usageError(message, usage string) *Exit {
	return &Exit{Code: 1, Stdout: usage, Stderr: message}
}

// lineFault turns what is wrong with a command line into an Exit: the Exit that a value
// returned itself, or the message in one line that begins with the program's name, as
// getopt's do already. That nobody reads the output any more is not worth a message.
func lineFault(prog string, err error) *Exit {
	var exit *Exit
	switch {
	case errors.As(err, &exit):
		return exit
	case unread(err):
		return &Exit{Code: 1}
	}
	return (&Exit{Code: 1, Stderr: strings.TrimPrefix(oneLine(ofValue(err).Error()), prog+": ")}).named(prog)
}

// named has the message begin with the program's name.
func (e *Exit) named(prog string) *Exit {
	if e != nil && e.Stderr != "" && !strings.HasPrefix(e.Stderr, prog+": ") {
		e.Stderr = prog + ": " + e.Stderr
	}
	return e
}

// unread reports whether a file could not be written to because it is a pipe whose reader
// has gone. A socket whose peer has gone is not meant.
func unread(err error) bool {
	var at *fs.PathError
	return errors.As(err, &at) && errors.Is(at.Err, syscall.EPIPE)
}

// missing names the first operand that was not given, of those that a usage shows.
func missing(operands string, given int) error {
	return fmt.Errorf("%s is missing", strings.Fields(operands)[given])
}

// ofValue is a value's own error, which pflag wraps.
func ofValue(err error) error {
	var invalid *pflag.InvalidValueError
	if errors.As(err, &invalid) {
		return invalid.Unwrap()
	}
	return err
}
