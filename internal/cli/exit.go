package cli

import (
	"errors"
	"strings"

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
// getopt's do already.
func lineFault(prog string, err error) *Exit {
	var exit *Exit
	if errors.As(err, &exit) {
		return exit
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

// ofValue is a value's own error, which pflag wraps.
func ofValue(err error) error {
	var invalid *pflag.InvalidValueError
	if errors.As(err, &invalid) {
		return invalid.Unwrap()
	}
	return err
}
