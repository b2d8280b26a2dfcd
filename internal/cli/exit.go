package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/pflag"
)

// Exit ends the program because of its command line: a code and the exact text for both
// streams. It is an error so that a flag's value can end parsing by returning it.
type Exit struct {
	Code   int
	Stdout string
	Stderr string // without a final newline: Main adds it
}

// Error is the text for stderr.
func (e *Exit) Error() string { return e.Stderr }

// usageError is the contract's answer to every fault of the command line: code 1, the message
// on stderr and the whole usage on stdout. Under our own name the usage is left out, so that
// the message stays in view.
func usageError(message, usage string) *Exit {
	return &Exit{Code: 1, Stdout: usage, Stderr: message}
}

// lineFault turns an error into an Exit: err itself if it is one, else the message in one
// line that begins with the program's name, as getopt's already do. Output that nobody reads
// any more is not worth a message.
func lineFault(prog string, err error) *Exit {
	var exit *Exit
	switch {
	case errors.As(err, &exit):
		return exit.named(prog)
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

// unread reports whether a write failed because a pipe's reader has gone. A socket whose peer
// has gone does not count.
func unread(err error) bool {
	var at *fs.PathError
	return errors.As(err, &at) && errors.Is(at.Err, syscall.EPIPE)
}

// missing names the first required operand of a usage that was not given.
func missing(operands string, given int) error {
	needed := slices.DeleteFunc(strings.Fields(operands), func(s string) bool { return s[0] == '[' })
	return fmt.Errorf("%s is missing", needed[given])
}

// ofValue returns a value's own error, which pflag wraps.
func ofValue(err error) error {
	var invalid *pflag.InvalidValueError
	if errors.As(err, &invalid) {
		return invalid.Unwrap()
	}
	return err
}
