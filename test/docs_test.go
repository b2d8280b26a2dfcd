package test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// session is a command of a document and what it prints there.
type session struct{ command, output string }

// sessions reads the blocks of a document that are marked console.
func sessions(text string) (list []session) {
	for _, block := range regexp.MustCompile("(?ms)^```console\n(.*?)^```").FindAllStringSubmatch(text, -1) {
		list = append(list, typed(block[1])...)
	}
	return list
}

// typed has the lines of a block that begin with "$ ", and what comes after each.
func typed(block string) (list []session) {
	for line := range strings.Lines(block) {
		if command, ok := strings.CutPrefix(line, "$ "); ok {
			list = append(list, session{command: command})
		} else if n := len(list); n > 0 {
			list[n-1].output += line
		}
	}
	return list
}

// matches reports whether got is what a document shows: "..." is anything, and any number of
// lines where it is one itself; spaces that align columns do not count.
func matches(shown, got string) bool {
	var b strings.Builder
	b.WriteString(`(?s)^`)
	for line := range strings.Lines(shown) {
		line = strings.TrimSpace(line)
		if line == "..." {
			b.WriteString(`(.*\n)?`)
			continue
		}
		words := strings.Fields(line)
		for i, w := range words {
			words[i] = regexp.QuoteMeta(w)
			if w == "..." {
				words[i] = `[^\n]*`
			}
		}
		b.WriteString(strings.Join(words, ` *`) + ` *\n`)
	}
	b.WriteString("$")
	return regexp.MustCompile(b.String()).MatchString(regexp.MustCompile(`[ \t]+`).ReplaceAllString(got, " "))
}

// TestDocumentedCommands: each command in a console block does what its document shows. A
// document's commands are one session of a new user, in a directory of its own.
func TestDocumentedCommands(t *testing.T) {
	ours(t, "documents")
	paths := must(filepath.Glob("../docs/*.md"))(t)
	all := 0
	for _, path := range append(paths, "../README.md") {
		list := sessions(string(must(os.ReadFile(path))(t)))
		all += len(list)
		if len(list) == 0 {
			continue
		}
		t.Run(filepath.Base(path), func(t *testing.T) {
			t.Parallel()
			home := must(os.MkdirTemp("", "d"))(t) // short enough for sockets in it
			t.Cleanup(func() { os.RemoveAll(home) })
			if err := os.Symlink(env.Binary, home+"/epiphyte"); err != nil {
				t.Fatal(err)
			}
			for _, dir := range []string{"/run", "/here"} {
				if err := os.Mkdir(home+dir, 0o700); err != nil {
					t.Fatal(err)
				}
			}
			for _, s := range list {
				cmd := exec.CommandContext(timeout(t, deadline), "sh", "-c", s.command)
				cmd.Dir = home + "/here"
				cmd.Env = []string{"HOME=" + home, "XDG_RUNTIME_DIR=" + home + "/run", "PATH=" + home + ":/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
				cmd.SysProcAttr = &syscall.SysProcAttr{}
				var out strings.Builder
				cmd.Stdout, cmd.Stderr = &out, &out
				err := env.Host.Start(cmd)
				if err == nil {
					err = cmd.Wait()
				}
				if err != nil || !matches(s.output, out.String()) {
					t.Errorf("$ %s%v\n%s\nthe document shows:\n%s", s.command, fmt.Sprint(err), out.String(), s.output)
				}
			}
		})
	}
	if all < 10 {
		t.Errorf("%d commands in all documents", all)
	}
}
