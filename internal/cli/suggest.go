package cli

import (
	"fmt"
	"strings"
)

// meant returns the word of a list that a mistyped one may have meant, empty if there is
// none: one is the beginning of the other, or at most a third of the letters are wrong.
func meant(written string, words []string) string {
	best, least := "", max(1, len(written)/3)
	for _, word := range words {
		if len(written) > 2 && (strings.HasPrefix(word, written) || strings.HasPrefix(written, word)) {
			return word
		}
		if d := distance(written, word); d <= least {
			best, least = word, d-1
		}
	}
	return best
}

// orMeant is the suggestion that an error about an unknown word adds.
func orMeant(written string, words []string, quoted func(string) string) string {
	if word := meant(written, words); word != "" {
		return "; did you mean " + quoted(word) + "?"
	}
	return ""
}

// noCommand is the error for an unknown command after prog.
func noCommand(prog, written string, words []string) error {
	quoted := func(word string) string { return fmt.Sprintf("%q", word) }
	hint := orMeant(written, words, quoted)
	if hint == "" {
		hint = "; '" + prog + " --help' lists them"
	}
	return fmt.Errorf("there is no command %q%s", written, hint)
}

// distance is how many letters have to be added, left out, changed or swapped with their
// neighbour to turn a into b (optimal string alignment).
func distance(a, b string) int {
	row := func() []int { return make([]int, len(b)+1) }
	before, last, now := row(), row(), row()
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		now[0] = i
		for j := 1; j <= len(b); j++ {
			change := 1
			if a[i-1] == b[j-1] {
				change = 0
			}
			now[j] = min(last[j]+1, now[j-1]+1, last[j-1]+change)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				now[j] = min(now[j], before[j-2]+1)
			}
		}
		before, last, now = last, now, before
	}
	return last[len(b)]
}
