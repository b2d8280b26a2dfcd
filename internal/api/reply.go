package api

import (
	"bytes"
	"encoding/json"
	"errors"

	"golang.org/x/sys/unix"

	"epiphyte/portfwd"
)

// reply is the text of a reply on the control socket.
type reply []byte

// encode writes v as JSON without a newline, and without the escapes that are
// for HTML only. The types of this package can always be written.
func encode(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return []byte("null")
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// success is {"return":v}.
func success(v any) reply {
	return encode(struct {
		Return any `json:"return"`
	}{v})
}

// failure is the contract's error: text is compared by programs, cause is ours,
// for people.
func failure(text, cause string) reply {
	type problem struct {
		Desc  string `json:"desc"`
		Cause string `json:"cause,omitempty"`
	}
	return encode(struct {
		Error problem `json:"error"`
	}{problem{"bad request: " + text, cause}})
}

// errnoName is the symbol of the errno that err wraps, EADDRINUSE for one, or
// empty.
func errnoName(err error) string {
	var errno unix.Errno
	if !errors.As(err, &errno) {
		return ""
	}
	return unix.ErrnoName(errno)
}

// causeOf is err in one line, led by the symbol of its errno. The field of a
// rule that is wrong is named by the contract's text already.
func causeOf(err error) string {
	var field *portfwd.FieldError
	if errors.As(err, &field) {
		err = field.Err
	}
	if name := errnoName(err); name != "" {
		return name + ": " + err.Error()
	}
	return err.Error()
}

// fieldOf is the field of a rule that err is about, or empty.
func fieldOf(err error) string {
	var field *portfwd.FieldError
	if errors.As(err, &field) {
		return field.Field
	}
	return ""
}
