package cli

import (
	"errors"

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
// code 1, the message on stderr and the whole usage on stdout.
func usageError(message, usage string) *Exit {
	return &Exit{Code: 1, Stdout: usage, Stderr: message}
}

// parseFault turns what stopped pflag into an Exit: the Exit that a value
// returned itself, or the value's own message with the usage.
func parseFault(err error, usage func() string) *Exit {
	var exit *Exit
	if errors.As(err, &exit) {
		return exit
	}
	var invalid *pflag.InvalidValueError
	if errors.As(err, &invalid) {
		err = invalid.Unwrap()
	}
	return usageError(err.Error(), usage())
}
