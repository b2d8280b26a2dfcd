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
	errEmpty     = errors.New("it is empty, or a part of it between dots is")
	errLong      = fmt.Errorf("it is longer than %d bytes, or than %d between dots", maxName, maxLabel)
	errCharacter = errors.New("use letters, digits and '_', inside also '-', with dots between parts")
	errAddress   = errors.New("it reads as an IP address")
	errReserved  = errors.New("it has a meaning of its own")
)

// Valid returns why name cannot be the name of a member, nil if it can: a host name as of RFC
// 952 and RFC 1123, section 2.1, without a dot at its end, in which '_' counts as a letter,
// as container engines allow. Names that resolvers answer by themselves are not valid: IP
// addresses in any notation that inet_aton(3) takes with a dot, localhost (RFC 6761, section
// 6.3), and Gateway.
func Valid(name string) error {
	if err := invalid(name); err != nil {
		return fmt.Errorf("the name %q cannot be: %w", name, err)
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

// Domain returns s without a dot at its end, if a DNS message can carry it as a name other
// than the root. The further limits of a host's name do not apply (RFC 2181, section 11).
func Domain(s string) (name string, ok bool) {
	name = strings.TrimSuffix(s, ".")
	if len(name) > maxName {
		return "", false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > maxLabel {
			return "", false
		}
	}
	return name, true
}

func notInName(r rune) bool {
	return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '-' || r == '_')
}
