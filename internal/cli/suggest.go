package cli

import (
	"fmt"
	"strings"
)

// meant is the word of a list that somebody who wrote something else may have meant, empty
// if there is none: one that begins or ends so, or has at most a third of its letters wrong.
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

// orMeant is what an error adds about a word that it does not know.
func orMeant(written string, words []string, quoted func(string) string) string {
	if word := meant(written, words); word != "" {
		return "; did you mean " + quoted(word) + "?"
	}
	return ""
}

// noCommand is the error of a word in a command's place. prog is what goes before it.
func noCommand(prog, written string, words []string) error {
	quoted := func(word string) string { return fmt.Sprintf("%q", word) }
	hint := orMeant(written, words, quoted)
	if hint == "" {
		hint = "; '" + prog + " --help' lists them"
	}
	return fmt.Errorf("there is no command %q%s", written, hint)
}

// distance is how many letters have to be added, left out, changed or swapped with their
// neighbour to make b of a (optimal string alignment).
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
