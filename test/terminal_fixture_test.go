package test

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// terminal is one of tmux's, with a program in it.
type terminal struct{ socket string }

// terminal starts the built program by a command of the shell, in which $0 is its path.
func (n *networks) terminal(t testing.TB, columns, rows int, shell string) *terminal {
	t.Helper()
	needs(t, "tmux")
	s := &terminal{filepath.Join(n.dir, fmt.Sprintf("tmux-%d", columns))}
	cfg := n.cfg
	cfg.NoWait = true
	cfg.Env = append(cfg.Env[:len(cfg.Env):len(cfg.Env)], "SHELL=/bin/bash", "PS1=> ")
	cfg.Wrap = []string{"tmux", "-S", s.socket, "-f", "/dev/null", "new-session", "-d",
		"-x", fmt.Sprint(columns), "-y", fmt.Sprint(rows), "bash", "--norc", "--noprofile", "-c", shell}
	h := must(env.Start(timeout(t, deadline), cfg))(t)
	t.Cleanup(func() { s.tmux("kill-server") })
	if code, _, err := h.Exit(timeout(t, deadline)); code != 0 || err != nil {
		t.Fatalf("tmux: status %d, %v: %s", code, err, h.Stderr)
	}
	return s
}

func (s *terminal) tmux(args ...string) string {
	out, _ := exec.Command("tmux", append([]string{"-S", s.socket}, args...)...).CombinedOutput()
	return string(out)
}

// keys are typed; names such as Enter and C-z are keys.
func (s *terminal) keys(keys ...string) { s.tmux(append([]string{"send-keys"}, keys...)...) }

// shows waits until all words are on the screen.
func (s *terminal) shows(t testing.TB, words ...string) (screen string) {
	t.Helper()
	eventually(t, deadline, func() error {
		screen = s.tmux("capture-pane", "-p")
		for _, w := range words {
			if !strings.Contains(screen, w) {
				return fmt.Errorf("no %q on the screen:\n%s", w, screen)
			}
		}
		return nil
	})
	return screen
}
