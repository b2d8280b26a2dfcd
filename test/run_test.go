package test

import (
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/test/harness"
)

// run starts `epiphyte run` as a plain user on the host.
func run(t testing.TB, cfg harness.HelperConfig, args ...string) *harness.Helper {
	t.Helper()
	ours(t, "run command")
	cfg.Args = append([]string{"run"}, args...)
	cfg.NoWait = true
	h, err := env.Start(timeout(t, deadline), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Kill)
	return h
}

// script runs a bash script and gives its exit status.
func script(t testing.TB, cfg harness.HelperConfig, text string, args ...string) (h *harness.Helper, code int) {
	t.Helper()
	h = run(t, cfg, append([]string{"--", "bash", "-c", text, "bash"}, args...)...)
	code, sig, err := h.Exit(timeout(t, 2*deadline))
	if err != nil || sig != 0 {
		t.Fatalf("signal %v, %v: %s%s", sig, err, h.Stdout, h.Stderr)
	}
	return h, code
}

// TestRunGivesANetwork: TCP, UDP, ping to the gateway and a name look-up inside
// one command, of both families, against servers on the host's side.
func TestRunGivesANetwork(t *testing.T) {
	serveDNS(t, env.Net.Net, "198.51.100.4", named("192.0.2.44"))
	cfg := harness.HelperConfig{Etc: etcWith(t, "198.51.100.4")}
	const ask = `
		set -eu
		exec 3<>"/dev/$1/$2/$3"
		echo "hello by $1" >&3
		timeout 5 dd bs=2000 count=1 status=none <&3`
	eachFamily(t, func(t *testing.T, f family) {
		tcp := serveTCP(t, env.Net.Net, "tcp"+f.v, net.JoinHostPort(f.server, "0"), echoTCP)
		udp := servePacket(t, env.Net.Net, "udp"+f.v, net.JoinHostPort(f.server, "0"), echoPacket)
		for network, addr := range map[string]net.Addr{"tcp": tcp, "udp": udp.LocalAddr()} {
			h, code := script(t, cfg, ask, network, f.server, port(addr))
			if code != 0 || h.Stdout.String() != "hello by "+network+"\n" {
				t.Errorf("%s: exit status %d, %q\n%s", network, code, h.Stdout, h.Stderr)
			}
		}
		loop := serveTCP(t, env.Host, "tcp"+f.v, net.JoinHostPort(f.loop, "0"), echoTCP)
		if h, code := script(t, cfg, ask, "tcp", f.gateway, port(loop)); code != 0 {
			t.Errorf("gateway: exit status %d, %q\n%s", code, h.Stdout, h.Stderr)
		}
	})
	h, code := script(t, cfg, `getent ahostsv4 name.example && cat /etc/resolv.conf`)
	if out := h.Stdout.String(); code != 0 || !strings.Contains(out, "192.0.2.44") || !strings.Contains(out, "nameserver 10.0.2.3") {
		t.Errorf("name look-up: exit status %d, %q\n%s", code, out, h.Stderr)
	}
	needs(t, "ping")
	if h, code := script(t, cfg, `ping -c1 -W2 10.0.2.2 && ping -c1 -W2 fd00::2`); code != 0 {
		t.Errorf("ping: exit status %d\n%s%s", code, h.Stdout, h.Stderr)
	}
}

// etcWith is an /etc with what a C library needs to look up a name.
func etcWith(t testing.TB, servers ...string) string {
	t.Helper()
	dir := etc(t, servers...)
	for name, text := range map[string]string{
		"nsswitch.conf": "hosts: files dns\n",
		"hosts":         "127.0.0.1 localhost\n",
		"passwd":        "root:x:0:0:root:/:/bin/sh\n",
		"group":         "root:x:0:\n",
	} {
		writeFile(t, filepath.Join(dir, name), text)
	}
	return dir
}

// TestRunExitsAsItsCommand: the status, also of a command that a signal ended,
// and 127 for one that is not there.
func TestRunExitsAsItsCommand(t *testing.T) {
	for text, want := range map[string]int{"exit 0": 0, "exit 7": 7, "kill -KILL $$": 128 + 9, "no-such-command-here": 127} {
		if h, code := script(t, harness.HelperConfig{}, text); code != want {
			t.Errorf("%q: exit status %d, want %d\n%s", text, code, want, h.Stderr)
		}
	}
	h := run(t, harness.HelperConfig{}, "--", "/nonexistent/command")
	if code, _, err := h.Exit(timeout(t, deadline)); err != nil || code != 127 || strings.Count(h.Stderr.String(), "\n") != 1 {
		t.Errorf("a command that is not there: exit status %d, %v, %q", code, err, h.Stderr)
	}
}

// TestRunIsRootOfItsOwn namespaces, and of nothing else.
func TestRunIsRootOfItsOwn(t *testing.T) {
	h, code := script(t, harness.HelperConfig{}, `id -u && cat /proc/self/uid_map && cat /proc/net/dev`)
	out := h.Stdout.String()
	if fields := strings.Fields(out); code != 0 || len(fields) < 4 || fields[0] != "0" || fields[3] != "1" || !strings.Contains(out, tapName) || strings.Contains(out, "up0") {
		t.Errorf("exit status %d:\n%s%s", code, out, h.Stderr)
	}
}

// TestRunPassesSignalsOn and leaves nothing behind.
func TestRunPassesSignalsOn(t *testing.T) {
	for _, sig := range []syscall.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGUSR1} {
		t.Run(sig.String(), func(t *testing.T) {
			h := run(t, harness.HelperConfig{}, "--", "bash", "-c",
				fmt.Sprintf(`trap 'echo got it; exit 9' %d; echo ready; while :; do sleep 0.05; done`, sig))
			eventually(t, deadline, func() error {
				if !strings.Contains(h.Stdout.String(), "ready") {
					return fmt.Errorf("not ready: %s", h.Stderr)
				}
				return nil
			})
			if err := h.Signal(sig); err != nil {
				t.Fatal(err)
			}
			if code, got, err := h.Exit(timeout(t, deadline)); err != nil || code != 9 || !strings.Contains(h.Stdout.String(), "got it") {
				t.Errorf("exit status %d, signal %v, %v: %s%s", code, got, err, h.Stdout, h.Stderr)
			}
		})
	}
}

// TestRunKilledTakesItsCommandAlong.
func TestRunKilledTakesItsCommandAlong(t *testing.T) {
	h := run(t, harness.HelperConfig{}, "--", "bash", "-c", `echo ready; exec sleep 1000`)
	eventually(t, deadline, func() error {
		if !strings.Contains(h.Stdout.String(), "ready") {
			return fmt.Errorf("not ready: %s", h.Stderr)
		}
		return nil
	})
	before := h.Descendants()
	if len(before) == 0 {
		t.Error("the command is not a child of run")
	}
	h.Kill()
	soon(t, time.Second, func() error {
		for _, p := range before {
			var pid int
			if _, err := fmt.Sscan(p, &pid); err != nil {
				return err
			}
			// A dead orphan is ours to collect.
			_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil)
			if unix.Kill(pid, 0) != unix.ESRCH {
				return fmt.Errorf("still there: %s", p)
			}
		}
		return nil
	})
}
