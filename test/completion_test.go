package test

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"epiphyte/internal/completion"
)

// TestCompletionsHaveAllThatTheHelpNames, in bash, which is asked as it asks itself; zsh and
// fish are asked whether they can read theirs.
func TestCompletionsHaveAllThatTheHelpNames(t *testing.T) {
	ours(t, "completions")
	t.Parallel()
	p := must(completion.Read("epiphyte", func(args ...string) (string, error) {
		text, err := exec.Command(env.Binary, args...).Output()
		return string(text), err
	}))(t)
	script := filepath.Join(t.TempDir(), "epiphyte")
	writeFile(t, script, p.Bash())
	complete := func(words ...string) string {
		line := `source ` + script + `; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _epiphyte; printf '%s\n' "${COMPREPLY[@]}"`
		out, err := exec.Command("bash", append([]string{"-c", line, "bash", "epiphyte"}, words...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return string(out)
	}
	for _, c := range p.Commands {
		words := strings.Fields(c.Name)
		offered := complete(append(words, "--")...)
		help, _ := exec.Command(env.Binary, append(words, "--help")...).Output()
		for line := range strings.Lines(string(help)) {
			f := strings.Fields(strings.TrimPrefix(strings.TrimSpace(line), "-"))
			if len(f) > 1 && len(f[0]) == 2 && f[0][1] == ',' { // the letter
				f = f[1:]
			}
			name, long := "", strings.HasPrefix(strings.TrimSpace(line), "-") && len(f) > 0
			if long {
				name, _, _ = strings.Cut(strings.TrimLeft(f[0], "-"), "[")
			}
			if long && !strings.Contains(offered, "--"+name+"\n") {
				t.Errorf("%s --: %q is not offered:\n%s", c.Name, name, offered)
			}
		}
		if len(c.Commands) > 0 && complete(append(words, "")...) == "\n" {
			t.Errorf("%q: no commands", c.Name)
		}
	}
	for _, tt := range []struct {
		words []string
		want  string
	}{
		{[]string{"net"}, "network\n"},
		{[]string{"network", "insp"}, "inspect\n"},
		{[]string{"run", "--quer"}, "\n"},
		{[]string{"run", "--queu"}, "--queues\n"},
		{[]string{"run", "--", "cat", "/etc/hostn"}, "/etc/hostname\n"},
		{[]string{"--policy", "/etc/hostn"}, "/etc/hostname\n"},
	} {
		if got := complete(tt.words...); got != tt.want {
			t.Errorf("%q: %q, want %q", tt.words, got, tt.want)
		}
	}
	for shell, text := range map[string]string{"zsh": p.Zsh(), "fish": p.Fish()} {
		t.Run(shell, func(t *testing.T) {
			program := needs(t, shell)
			file := filepath.Join(t.TempDir(), "completion")
			writeFile(t, file, text)
			if out, err := exec.Command(program, "-n", file).CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
}
