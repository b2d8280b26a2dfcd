package egress

import (
	_ "embed"
	"sort"
	"strings"
)

// suffixes are the names below which anybody may have a name: the rules of publicsuffix.org,
// one a line, sorted by their bytes. A test compares them with golang.org/x/net/publicsuffix;
// that package imports net/http, for which every start would pay. The list is under the
// Mozilla Public License, version 2.0.
//
//go:embed suffixes.txt
var suffixes string

// strangersBelow reports whether anybody may register a name one label below name, so that a
// star there would let anybody in. A top-level name that is not on the list may be on it
// tomorrow; those that cannot (RFC 6761, RFC 6762, and "internal" by ICANN's resolution of
// 2024) are for private use.
func strangersBelow(name string) bool {
	if !strings.Contains(name, ".") {
		switch name {
		case "internal", "local", "test", "localhost", "invalid", "example":
			return false
		}
		return true
	}
	if listed("!" + name) {
		return false // an exception from a rule with a star
	}
	_, parent, _ := strings.Cut(name, ".")
	return listed(name) || listed("*."+parent) || listed("*."+name)
}

// listed reports whether the list has a line.
func listed(rule string) bool {
	// It searches the text itself, so that no index takes memory.
	text := suffixes
	i := sort.Search(len(text), func(i int) bool { return lineAt(text, i) >= rule })
	return i < len(text) && lineAt(text, i) == rule
}

// lineAt returns the first line that begins at i or later; after the last one, a text greater
// than any rule.
func lineAt(text string, i int) string {
	if i > 0 {
		end := strings.IndexByte(text[i-1:], '\n')
		if end < 0 {
			return "\xff"
		}
		i += end
	}
	line, _, _ := strings.Cut(text[i:], "\n")
	if line == "" {
		return "\xff"
	}
	return line
}
