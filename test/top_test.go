package test

import (
	"strings"
	"testing"
)

// top is a screen that refreshes itself and ends by q, fits a narrow terminal, and is a plain
// table where there is none.
func TestTop(t *testing.T) {
	t.Parallel()
	n := newNetworks(t)
	n.start(t, "run", "--quiet", "bash", "-c", "exec 3<>/dev/udp/198.51.100.9/9; echo x >&3; sleep 100")
	n.awaitGuests(t, 1)
	out := n.do(t, "top")
	for _, word := range []string{"flows ", "dns ", "dropped ", "PROTO"} {
		if !strings.Contains(out, word) {
			t.Errorf("no %q in %s", word, out)
		}
	}
	if strings.ContainsRune(out, '\x1b') {
		t.Errorf("escapes in a pipe: %q", out)
	}
	for _, columns := range []int{100, 30} {
		s := n.terminal(t, columns, 12, `"$0" top --watch 0.2; echo over $?; exec sleep 100`)
		s.shows(t, "flows ", "PROTO", "udp")
		s.keys("q")
		screen := s.shows(t, "over 0")
		if lines := strings.Count(screen, "PROTO"); lines != 1 {
			t.Errorf("%d columns: %d tables:\n%s", columns, lines, screen)
		}
	}
}
