package names

import (
	"errors"
	"fmt"
	"strings"
)

// Lengths of RFC 1035, section 2.3.4. A name of 253 bytes takes 255 in a message,
// the most that there may be.
const (
	maxLabel = 63
	maxName  = 253
)

// Errors of Valid, wrapped in the name that has them.
var (
	errEmpty     = errors.New("a name or a part between dots is empty")
	errLong      = fmt.Errorf("longer than %d bytes, or than %d between dots", maxName, maxLabel)
	errCharacter = errors.New("a part is not of letters, digits, '-' and '_', or has '-' at an end")
	errAddress   = errors.New("reads as an IP address")
	errReserved  = errors.New("has a meaning of its own")
)

// Valid reports why name cannot be the name of a member, nil if it can: a host name
// as of RFC 952 and RFC 1123, section 2.1, without a dot at its end, in which '_' may
// stand for a letter, as container engines allow. It is none that resolvers answer by
// themselves: no IP address, in whatever notation inet_aton(3) takes with a dot, not
// localhost (RFC 6761, section 6.3), not Gateway.
func Valid(name string) error {
	if err := invalid(name); err != nil {
		return fmt.Errorf("check name %q: %w", name, err)
	}
	return nil
}

func invalid(name string) error {
	if len(name) > maxName {
		return errLong
	}
	last := ""
	for label := range strings.SplitSeq(name, ".") {
		switch {
		case label == "":
			return errEmpty
		case len(label) > maxLabel:
			return errLong
		case label[0] == '-' || label[len(label)-1] == '-' || strings.ContainsFunc(label, notInName):
			return errCharacter
		}
		last = label
	}
	switch {
	case last != name && strings.Trim(name, "0123456789.") == "":
		return errAddress
	case strings.EqualFold(last, "localhost"), strings.EqualFold(name, Gateway):
		return errReserved
	}
	return nil
}

func notInName(r rune) bool {
	return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '-' || r == '_')
}
