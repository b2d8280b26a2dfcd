package egress

import (
	"errors"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// Errors of Canonical.
var (
	errEmptyLabel = errors.New("there is nothing between two dots")
	errLongName   = errors.New("it is longer than 253 bytes, or than 63 between dots")
	errCharacter  = errors.New("a name is of letters, digits, '-' and '_', with no '-' at an end of a part")
	errNumeric    = errors.New("it ends in a number, as an address does, and is none")
	errIDNA       = errors.New("it has characters that no name may have")
)

// Lengths of RFC 1035, section 2.3.4, as text.
const (
	maxLabel = 63
	maxName  = 253
)

// Canonical returns the form in which names are compared: A-labels (RFC 5891) in lower case
// without a dot at the end. The error says why a name cannot be a host's. A name already in
// that form is returned without allocating.
func Canonical(name string) (string, error) {
	name = strings.TrimSuffix(name, ".")
	ascii, lower := true, true
	for i := range len(name) {
		ascii = ascii && name[i] < 0x80
		lower = lower && !('A' <= name[i] && name[i] <= 'Z')
	}
	if !ascii {
		// As browsers do it (UTS 46, non-transitional); checkName checks the characters
		// of ASCII names.
		mapped, err := idna.New(idna.MapForLookup(), idna.BidiRule(), idna.Transitional(false), idna.StrictDomainName(false)).ToASCII(name)
		if err != nil || strings.ContainsRune(name, utf8.RuneError) {
			return "", errIDNA
		}
		name = strings.TrimSuffix(mapped, ".")
	}
	if !lower {
		name = strings.ToLower(name)
	}
	return name, checkName(name)
}

func checkName(name string) error {
	if len(name) > maxName {
		return errLongName
	}
	for rest, more := name, true; more; {
		var label string
		label, rest, more = strings.Cut(rest, ".")
		switch {
		case label == "":
			return errEmptyLabel
		case len(label) > maxLabel:
			return errLongName
		case label[0] == '-' || label[len(label)-1] == '-':
			return errCharacter
		}
		for i := range len(label) {
			if c := label[i]; !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '_') {
				return errCharacter
			}
		}
		if !more && isNumber(label) {
			return errNumeric
		}
	}
	return nil
}

// isNumber reports whether inet_aton(3) takes a last label as the end of an address.
func isNumber(label string) bool {
	if hex, ok := strings.CutPrefix(label, "0x"); ok {
		return strings.Trim(hex, "0123456789abcdef") == ""
	}
	return strings.Trim(label, "0123456789") == ""
}
