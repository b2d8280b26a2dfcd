package api

import (
	"bytes"
	"encoding/json"
	"errors"

	"golang.org/x/sys/unix"

	"epiphyte/portfwd"
)

// Error is an error in a reply of either protocol.
type Error struct {
	Desc  string `json:"desc"`            // what went wrong
	Field string `json:"field,omitempty"` // HTTP: the field of a Port that is wrong
	Cause string `json:"cause,omitempty"` // HTTP: the symbol of an errno; control socket: the reason
}

func (e *Error) Error() string {
	if e.Cause == "" {
		return e.Desc
	}
	return e.Desc + " (" + e.Cause + ")"
}

type errorDocument struct {
	Error *Error `json:"error"`
}

// errnoName returns the symbol of the errno that err wraps, such as EADDRINUSE, or empty.
func errnoName(err error) string {
	var errno unix.Errno
	if !errors.As(err, &errno) {
		return ""
	}
	return unix.ErrnoName(errno)
}

// fieldOf returns the field of a Port that err is about, or empty.
func fieldOf(err error) string {
	var field *portfwd.FieldError
	if errors.As(err, &field) {
		return field.Field
	}
	return ""
}

// encode writes v as JSON without a newline and without escapes for HTML. It cannot fail for
// the types of this package.
func encode(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return []byte("null")
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}
