package test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"epiphyte/test/harness"
)

// elsewhere has the commands of documents that other tests run, or that nobody can run in a
// test, by what they begin with, and who does or why not.
func elsewhere() map[string]string {
	const ci, podman = ".ci/run runs it", "the checks of test/interop run it with podman"
	return map[string]string{
		"make build": ci, "make pages": "make dist runs it", "make dist": "make reproduce runs it", "sudo make install": "test/root does, into a directory",
		"make test": ci, "make fuzz": ci, "make race": ci, "make interop": ci, "make reproduce": ci, "make soak": ci, ".ci/run": "it is what runs this",
		"go test ": ci, "sudo dpkg -i": "package/install of test/interop", "sudo rpm -i": "it takes another distribution",
		"epiphyte run --map-auto": "users/* of test/interop, with subordinate ids",
		"rootlesskit ":            "the checks of test/interop run it with RootlessKit",
		"DOCKERD_ROOTLESS_":       "the checks of test/interop run it with Docker",
		"podman ":                 podman, "EPIPHYTE_POLICY=": podman, "CONTAINERS_HELPER_BINARY_DIR=": podman,
		"sudo mkdir -p /usr/local/libexec/podman": "package/podman-pasta of test/interop", "sudo ln -sf /usr/bin/epiphyte": "package/podman-pasta of test/interop",
		"pasta --config-net --netns": "TestPastaRelativePaths", "pesto ": "TestPestoSession",
		"systemd-nspawn ": "it takes root, and a tree", "nsenter --preserve-credentials": "it takes a mount namespace of the target's own",
		"epiphyte exec -i dev/web": "TestFind_Members", "epiphyte pcap --http-socket PATH --snaplen": "TestCaptureByHTTP",
	}
}

// reader types the commands of one document.
type reader struct {
	t       *testing.T
	home    string
	serving []*exec.Cmd
	hosts   []*harness.Guest // namespaces that stand for PID
}

// TestDocumentedBlocks: what documents give to be typed works as it stands there, a block
// marked sh as one session. Programs of the reader's own are stood in for.
func TestDocumentedBlocks(t *testing.T) {
	t.Parallel()
	ours(t, "documents")
	for _, path := range append(must(filepath.Glob("../docs/*.md"))(t), "../README.md") {
		text := string(must(os.ReadFile(path))(t))
		t.Run(filepath.Base(path), func(t *testing.T) {
			u := newReader(t)
			for _, block := range regexp.MustCompile("(?ms)^```(\\w*)\n(.*?)^```").FindAllStringSubmatch(text, -1) {
				switch kind, body := block[1], block[2]; {
				case kind == "sh":
					u.block(strings.ReplaceAll(body, "\\\n", ""))
				case kind == "" && !strings.Contains(body, "[OPTION]") && regexp.MustCompile(`(?m)^(\$ )?(epiphyte|make|pasta|pesto|podman|sudo|curl|unshare) `).MatchString(body):
					t.Errorf("a block of commands is not marked sh:\n%s", body)
				case strings.HasPrefix(body, "# build.policy"):
					u.write("build.policy", body, 0o600)
				}
			}
		})
	}
}

func newReader(t *testing.T) *reader {
	home := must(os.MkdirTemp("", "r"))(t) // short enough for sockets in it
	u := &reader{t: t, home: home}
	t.Cleanup(func() { os.RemoveAll(home) })
	for _, dir := range []string{"/run", "/here/bin", "/stubs"} {
		if err := os.MkdirAll(home+dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"/stubs/epiphyte", "/stubs/pasta", "/here/bin/epiphyte", "/here/epiphyte"} {
		if err := os.Symlink(env.Binary, home+name); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"server", "app", "agent", "../stubs/postgres"} {
		// No child of its own: one that is forked when the signal comes takes it for the shell's.
		u.write(name, "#!/bin/sh\necho >>started || exit 0\nexec sleep 1000\n", 0o700)
	}
	u.write("../stubs/git", "#!/bin/sh\n", 0o700)
	u.write("../stubs/make", "#!/bin/sh\nexec /usr/bin/make -o build \"$@\"\n", 0o700)
	u.write("Makefile", string(must(os.ReadFile("../Makefile"))(t)), 0o600)
	for _, name := range []string{"build.policy", "agent.policy", "other.policy"} {
		u.write(name, "allow github.com:443\n", 0o600)
	}
	t.Cleanup(u.end)
	return u
}

func (u *reader) write(name, content string, mode os.FileMode) {
	if err := os.WriteFile(filepath.Join(u.home, "here", name), []byte(content), mode); err != nil {
		u.t.Fatal(err)
	}
}

// block types the lines of a block. Where they depend on each other they are one.
func (u *reader) block(body string) {
	defer u.end()
	list := typed(body)
	switch {
	case len(list) > 0: // with what is printed
	case strings.Contains(body, "$!"):
		list = []session{{command: body}}
	default:
		for line := range strings.Lines(body) {
			list = append(list, session{command: line})
		}
	}
	for _, s := range list {
		known := strings.TrimSpace(s.command) == ""
		for prefix := range elsewhere() {
			known = known || strings.HasPrefix(s.command, prefix)
		}
		if known {
			continue
		}
		if said := u.line(s.command); s.output != "" && !matches(s.output, said) {
			u.t.Errorf("$ %s%s\nthe document shows:\n%s", s.command, said, s.output)
		}
	}
}

// line types a line, waits until it has ended or serves, and returns what it has printed.
func (u *reader) line(line string) string {
	u.precede(line)
	if strings.Contains(line, "8080:80") { // of another example
		u.endThose(func(cmd *exec.Cmd) bool { return strings.Contains(cmd.Args[2], "8080:80") })
	}
	var host *harness.Guest
	typed := strings.NewReplacer(" ...\n", "\n", "FILE", "capture", "--http-socket PATH", "--http-socket SOCKET",
		"10.90.0.3", "$(epiphyte network inspect web | grep -o '^ *first .*' | grep -o '10[0-9.]*' | head -n 1)").Replace(line)
	typed = regexp.MustCompile(` \.\.\.(\s+#)`).ReplaceAllString(typed, "$1")
	if id := regexp.MustCompile(`--id \d+`); id.MatchString(typed) {
		typed = id.ReplaceAllString(typed, "--id $(epiphyte ps | sed -n 2p | cut -d' ' -f1)")
	}
	if strings.Contains(typed, "PID") {
		host = must(env.NewGuest())(u.t)
		u.hosts = append(u.hosts, host)
		typed = strings.ReplaceAll(typed, "PID", strconv.Itoa(host.PID))
	}
	want := 0
	if strings.HasPrefix(line, "epiphyte policy check") {
		want = -1 // a verdict, which is shown
	}
	if m := regexp.MustCompile(`exit (\d)'`).FindStringSubmatch(line); m != nil {
		want, _ = strconv.Atoi(m[1])
	}
	started := u.started()
	cmd := u.command(typed)
	out := must(os.Create(filepath.Join(u.home, "said")))(u.t) // a pipe would be held by what goes on behind
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	if err := env.Host.Start(cmd); err != nil {
		u.t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	err := harness.Eventually(deadline, func() error {
		select {
		case <-ended:
			if got := cmd.ProcessState.ExitCode(); got != want && want >= 0 {
				u.t.Errorf("exit status %d, want %d: %s%s", got, want, line, u.said())
			}
			if unix.Kill(-cmd.Process.Pid, 0) == nil { // it has left something behind
				u.serving = append(u.serving, cmd)
			}
			return nil
		default:
		}
		if u.started() > started || u.serves(typed, host) {
			u.serving = append(u.serving, cmd)
			return nil
		}
		return errors.New("it neither ends nor serves")
	})
	if err != nil {
		u.serving = append(u.serving, cmd)
		u.t.Errorf("%v: %s%s", err, line, u.said())
	}
	return u.said()
}

func (u *reader) said() string {
	b, _ := os.ReadFile(filepath.Join(u.home, "said"))
	return string(b)
}

// started is how many of the reader's programs have started.
func (u *reader) started() int {
	b, _ := os.ReadFile(filepath.Join(u.home, "here/started"))
	return len(b)
}

// serves reports whether a command that goes on has begun to do its work.
func (u *reader) serves(typed string, host *harness.Guest) bool {
	if strings.Contains(typed, " pcap ") {
		info, err := os.Stat(filepath.Join(u.home, "here/capture"))
		return err == nil && info.Size() > 0
	}
	if host == nil || strings.Contains(typed, "network connect") { // which ends, and only then has a member
		return false
	}
	links, err := host.Links()
	return err == nil && len(links) > 0
}

// precede has a guest, or a member of a network, running where a command is about one.
func (u *reader) precede(line string) {
	live := regexp.MustCompile(`^epiphyte (ps|exec|publish|ports|flows|stats|top|why)\b`).MatchString(line)
	network := regexp.MustCompile(`--network web|network (inspect|policy|connect)`).MatchString(line)
	switch {
	case len(u.serving) > 0:
	case strings.HasPrefix(line, "curl --unix-socket"), strings.Contains(line, "--http-socket PATH"):
		u.line("epiphyte run --policy build.policy --http-socket=SOCKET -- ./server")
	case network && !strings.Contains(line, " run "):
		name := "first"
		if m := regexp.MustCompile(`network policy web (\w+)`).FindStringSubmatch(line); m != nil {
			name = m[1]
		}
		u.line("epiphyte run --network web --name " + name + " -- ./server")
	case live:
		u.line("epiphyte run -- ./server")
	}
}

func (u *reader) command(line string) *exec.Cmd {
	cmd := exec.Command("sh", "-ec", line)
	cmd.Dir = u.home + "/here"
	cmd.Env = []string{"HOME=" + u.home, "XDG_RUNTIME_DIR=" + u.home + "/run", "PATH=" + u.home + "/stubs:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "SHELL=/bin/sh"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd
}

// end ends what a block has begun.
func (u *reader) end() {
	u.endThose(func(*exec.Cmd) bool { return true })
	for _, host := range u.hosts {
		host.Close()
	}
	u.hosts = nil
	u.command("for n in $(epiphyte network ls | sed 1d | cut -d' ' -f1); do epiphyte network rm --force $n; done").Run()
}

func (u *reader) endThose(which func(*exec.Cmd) bool) {
	u.serving = slices.DeleteFunc(u.serving, func(cmd *exec.Cmd) bool {
		if !which(cmd) {
			return false
		}
		group := -cmd.Process.Pid
		unix.Kill(group, unix.SIGTERM)
		if err := harness.Eventually(deadline, func() error {
			for pid := 1; pid > 0; { // orphans come to us
				pid, _ = unix.Wait4(group, nil, unix.WNOHANG, nil)
			}
			if err := unix.Kill(group, 0); err != unix.ESRCH {
				return fmt.Errorf("it has not ended: %q", cmd.Args[2])
			}
			return nil
		}); err != nil {
			u.t.Error(err)
			unix.Kill(group, unix.SIGKILL)
		}
		return true
	})
}
