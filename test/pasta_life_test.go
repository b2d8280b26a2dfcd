package test

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"epiphyte/test/harness"
)

// TestPastaReturnsReady: when the caller's process returns, nothing is waited for: lo and
// the interface are up, addresses and the default route are there, the port is open, and
// the file names the process that goes on.
func TestPastaReturnsReady(t *testing.T) {
	g := newGuest(t)
	serveTCP(t, g.NetNS, "tcp4", "0.0.0.0:80", tellBoth)
	d := pastaDaemon(t, g, "-t", "18080:80", "-u", "none", "-T", "none", "-U", "none", "--quiet")
	if err := g.Do(func() error {
		for _, name := range []string{"lo", tapName} {
			l, err := netlink.LinkByName(name)
			if err != nil {
				return err
			}
			if l.Attrs().Flags&net.FlagUp == 0 {
				t.Errorf("%s is down", name)
			}
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	if _, err := g.Address(tapName, unix.AF_INET); err != nil {
		t.Error(err)
	}
	c, err := env.Host.Dial(timeout(t, deadline), "tcp4", "127.0.0.1:18080")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got, err := io.ReadAll(c); err != nil || len(got) == 0 {
		t.Errorf("the published server says %q, %v", got, err)
	}
	comm := must(os.ReadFile(fmt.Sprintf("/proc/%d/comm", d.pid)))(t)
	if string(comm) != "pasta\n" {
		t.Errorf("the process is called %q", comm)
	}
}

// TestPastaLeavesStreams: a caller that reads its outputs to their end is not held up by
// the process that goes on, nor by other descriptors that it has left open to it.
func TestPastaLeavesStreams(t *testing.T) {
	link, dir := pastaLink(t), t.TempDir()
	for _, c := range []struct{ name, script string }{
		{"outputs", `exec "$@"`},
		{"more", `exec 7>&1 9>&2 "$@"`},
		{"closed", `exec "$@" 0<&- 2>&-`},
	} {
		t.Run(c.name, func(t *testing.T) {
			g, pid := newGuest(t), filepath.Join(dir, c.name)
			args := append([]string{"-c", c.script, "sh", link, "--config-net", "--pid", pid}, closedPorts...)
			got := call(t, "sh", append(args, fmt.Sprint(g.PID))...)
			if got.code != 0 {
				t.Fatalf("%+v", got)
			}
			d := background(t, pid)
			if got.after > 50*time.Millisecond && late(t, got.after, 50*time.Millisecond) {
				t.Errorf("the outputs end %v after the return", got.after)
			}
			if d.ends(0) {
				t.Error("nothing goes on")
			}
		})
	}
}

// podmans is a script of a namespace that a path keeps, made as podman makes its own: as
// root of a user namespace, with a mount over a file. It says so, and then does what it
// reads.
const podmans = `set -e
touch "$1/ns"
unshare --net="$1/ns" true
shift
"$@"
echo ready
while read -r line; do eval "$line"; done`

// TestPastaEndsWithItsNamespace, at once, whatever way there was to it, and its ports are
// free then.
func TestPastaEndsWithItsNamespace(t *testing.T) {
	needs(t, "unshare")
	const port = "127.0.0.1:18081"
	free := func(t *testing.T, d *daemon) {
		t.Helper()
		d.endsSoon(t)
		l, err := env.Host.Listen("tcp4", port)
		if err != nil {
			t.Fatalf("its port is not free: %v", err)
		}
		l.Close()
	}
	ports := []string{"-t", "127.0.0.1/18081:80", "-u", "none", "-T", "none", "-U", "none"}
	for name, target := range map[string]func(pid int) []string{
		"process": func(pid int) []string { return []string{fmt.Sprint(pid)} },
		"path":    func(pid int) []string { return []string{"--netns", fmt.Sprintf("/proc/%d/ns/net", pid)} },
	} {
		t.Run(name, func(t *testing.T) {
			g, pid := must(env.NewGuest())(t), filepath.Join(t.TempDir(), "pid")
			args := append(append([]string{"--config-net", "--pid", pid}, ports...), target(g.PID)...)
			if c := call(t, pastaLink(t), args...); c.code != 0 {
				t.Fatalf("%+v", c)
			}
			d := background(t, pid)
			if err := g.Close(); err != nil {
				t.Error(err)
			}
			free(t, d)
		})
	}
	for name, end := range map[string]struct {
		script  string
		outside bool // the file is removed from another mount namespace
	}{
		"unmounted":        {script: `umount "$NS"`},
		"detached":         {script: `umount -l "$NS"; rm "$NS"`},
		"removed, outside": {outside: true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			pid, ns := filepath.Join(dir, "pid"), filepath.Join(dir, "ns")
			args := append([]string{"-Urm", "sh", "-c", podmans, "sh", dir, pastaLink(t), "--config-net", "--pid", pid, "--netns", ns}, ports...)
			cmd := exec.CommandContext(timeout(t, 3*deadline), "unshare", args...)
			cmd.Env, cmd.Stderr = append(os.Environ(), "NS="+ns), os.Stderr
			in, out := must(cmd.StdinPipe())(t), must(cmd.StdoutPipe())(t)
			if err := env.Host.Start(cmd); err != nil {
				t.Fatal(err)
			}
			ready := make([]byte, len("ready\n"))
			if _, err := io.ReadFull(out, ready); err != nil {
				t.Fatalf("it is not ready: %v", err)
			}
			d := background(t, pid)
			if d.ends(0) {
				t.Error("it has ended before")
			}
			// What else happens to the mounts does not matter.
			fmt.Fprintf(in, "mount -t tmpfs none /mnt; umount /mnt; echo still\n")
			if _, err := io.ReadFull(out, ready); err != nil || d.ends(50*time.Millisecond) {
				t.Errorf("another mount ends it, %v", err)
			}
			if end.outside {
				if err := os.Remove(ns); err != nil {
					t.Fatal(err)
				}
			} else {
				fmt.Fprintln(in, end.script)
			}
			free(t, d)
			in.Close()
			if err := cmd.Wait(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestPastaOutlivesItsPath where that is asked for.
func TestPastaOutlivesItsPath(t *testing.T) {
	g, pid := must(env.NewGuest())(t), filepath.Join(t.TempDir(), "pid")
	if c := call(t, pastaLink(t), append([]string{"--no-netns-quit", "--config-net", "--pid", pid, "--netns", fmt.Sprintf("/proc/%d/ns/net", g.PID)}, closedPorts...)...); c.code != 0 {
		t.Fatalf("%+v", c)
	}
	d := background(t, pid)
	if err := g.Close(); err != nil {
		t.Error(err)
	}
	if d.ends(200 * time.Millisecond) {
		t.Error("it has ended")
	}
}

// TestPastaRestart: the same port and interface again and again, without a pause for the
// predecessor to go.
func TestPastaRestart(t *testing.T) {
	t.Parallel()
	g := newGuest(t)
	for i := range 50 {
		d := pastaDaemon(t, g, "-t", "18082:80", "-u", "18082:80", "-T", "none", "-U", "none")
		if err := unix.PidfdSendSignal(d.fd, []syscall.Signal{unix.SIGTERM, unix.SIGQUIT, unix.SIGKILL}[i%3], nil, 0); err != nil {
			t.Fatal(err)
		}
	}
}

// TestPastaFaults: one line on stderr, exit status 1, and nothing left.
func TestPastaFaults(t *testing.T) {
	t.Parallel()
	busy := serveTCP(t, env.Host, "tcp4", "0.0.0.0:0", tellBoth)
	self := func(pid int) []string { return []string{fmt.Sprint(pid)} }
	for name, c := range map[string]struct {
		args   []string
		target func(pid int) []string
		says   string
	}{
		"option":    {[]string{"--map-guest-addr2", "::1"}, self, "unrecognized option '--map-guest-addr2'\nUsage: "},
		"ambiguous": {[]string{"--map", "::1"}, self, "option '--map' is ambiguous; possibilities: '--map-host-loopback' '--map-guest-addr'\n"},
		"value":     {[]string{"--mtu", "1"}, self, "--mtu 1: must be"},
		"process":   {nil, func(int) []string { return []string{"4194303"} }, "4194303"},
		"path":      {nil, func(int) []string { return []string{"--netns", "/nonexistent/ns"} }, "/nonexistent/ns"},
		"userns":    {[]string{"--userns", "/nonexistent/user"}, self, "/nonexistent/user"},
		"no netns":  {nil, func(int) []string { return []string{"--netns", "/dev/null"} }, "not a network namespace"},
		"port":      {[]string{"-t", port(busy)}, self, port(busy)},
		"pid file":  {[]string{"--pid", "/nonexistent/pid"}, self, "/nonexistent/pid"},
		"interface": {[]string{"-i", "nonexistent0"}, self, "nonexistent0"},
		"splice":    {[]string{"--splice-only", "--no-splice"}, self, "--splice-only and --no-splice leave no way"},
		"ours":      {[]string{"--publish-mode=x"}, self, "--publish-mode must be"},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGuest(t)
			args := append(append(slices.Clone(c.args), "--config-net", "-u", "none", "-T", "none", "-U", "none"), c.target(g.PID)...)
			if name != "port" {
				args = append([]string{"-t", "none"}, args...)
			}
			got := call(t, pastaLink(t), args...)
			usage := strings.Contains(c.says, "\n")
			if got.code != 1 || !strings.HasPrefix(got.said, "pasta: ") || !strings.Contains(got.said, c.says) || !usage && strings.Count(got.said, "\n") != 1 {
				t.Errorf("%+v, want one line with %q", got, c.says)
			}
			if links, err := g.Links(); err != nil || len(links) > 0 {
				t.Errorf("left behind in the guest: %v, %v", links, err)
			}
		})
	}
}

// TestPastaAbbreviated: options as short as they can be, ours as well.
func TestPastaAbbreviated(t *testing.T) {
	g, pid := newGuest(t), filepath.Join(t.TempDir(), "pid")
	if c := call(t, pastaLink(t), append([]string{"--config", "--pi=" + pid, "--ns-if", tapName, "-qm1400", "--queue=2", "--no-off"}, append(closedPorts, fmt.Sprint(g.PID))...)...); c.code != 0 {
		t.Fatalf("%+v", c)
	}
	background(t, pid)
	w := &world{Guest: g}
	if l := w.link(t); l.Attrs().MTU != 1400 || l.Queues != 2 {
		t.Errorf("MTU %d, %d queues", l.Attrs().MTU, l.Queues)
	}
}

// TestPastaCommand: a command in namespaces of its own has a network when it begins, and
// its exit status is ours.
func TestPastaCommand(t *testing.T) {
	link := pastaLink(t)
	server := serveTCP(t, env.Net.Net, "tcp4", net.JoinHostPort(families()[0].server, "0"), tellBoth)
	host := must(os.Hostname())(t)
	for name, c := range map[string]struct {
		script, says string
		code         int
	}{
		"status":     {"exit 7", "", 7},
		"process 1":  {"echo $$ $(ps -e -o pid= | head -1)", "1 1\n", 0},
		"host name":  {"hostname", "pasta-" + host + "\n", 0},
		"root":       {"id -u; cat /proc/sys/net/ipv4/ping_group_range", "0\n0\t0\n", 0},
		"network":    {fmt.Sprintf("exec 3<>/dev/tcp/%s/%s && read -r -u3 from to; echo ${from:+yes}", families()[0].server, port(server)), "yes\n", 0},
		"no command": {"exec /nonexistent", "", 127},
	} {
		t.Run(name, func(t *testing.T) {
			got := call(t, link, append(slices.Clone(closedPorts), "--config-net", "--", "bash", "-c", c.script)...)
			if got.code != c.code || c.code == 0 && got.said != c.says {
				t.Errorf("%+v, want %d, %q", got, c.code, c.says)
			}
		})
	}
	t.Run("not found", func(t *testing.T) {
		got := call(t, link, append(slices.Clone(closedPorts), "--config-net", "--", "/nonexistent")...)
		if got.code != 127 || got.said != "pasta: /nonexistent: command not found\n" {
			t.Errorf("%+v", got)
		}
	})
	t.Run("shell", func(t *testing.T) {
		got := call(t, "env", append([]string{"SHELL=/usr/bin/env", link}, closedPorts...)...)
		if got.code != 0 || !strings.Contains(got.said, "SHELL=/usr/bin/env\n") {
			t.Errorf("%+v", got)
		}
	})
	for name, c := range map[string]struct {
		script string
		code   int
	}{
		"signal":  {"echo up; exec sleep 60", 143},
		"handled": {"trap 'exit 5' TERM; echo up; sleep 60 & wait", 5},
	} {
		t.Run(name, func(t *testing.T) {
			h, err := env.Start(timeout(t, deadline), harness.HelperConfig{
				Args: append(slices.Clone(closedPorts), "bash", "-c", c.script),
				Wrap: []string{"sh", "-c", `shift; exec "$0" "$@"`, link}, NoWait: true, Plain: true,
			})
			if err != nil {
				t.Fatal(err)
			}
			defer h.Kill()
			eventually(t, deadline, func() error {
				if h.Stdout.String() != "up\n" {
					return fmt.Errorf("the command says %q", h.Stdout)
				}
				return nil
			})
			if err := h.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			if code, sig, err := h.Exit(timeout(t, deadline)); code != c.code || err != nil {
				t.Errorf("exit status %d, signal %v, %v, want %d", code, sig, err, c.code)
			}
		})
	}
}
