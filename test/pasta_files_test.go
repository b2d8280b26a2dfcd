package test

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestPastaRelativePaths: files that options name are those of the directory that the caller
// is in, which the process in the background leaves.
func TestPastaRelativePaths(t *testing.T) {
	g, dir := newGuest(t), t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "policy"), []byte("allow tcp 192.0.2.1:80\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	args := []string{"-c", `cd "$0" && exec "$@"`, dir, pastaLink(t), "--config-net", "-I", tapName, "--pid=pid", "-l", "log", "-p", "capture",
		"-c", "conf", "--policy=policy", "--policy-log=flows"}
	if c := call(t, "sh", append(append(args, closedPorts...), fmt.Sprint(g.PID))...); c.code != 0 {
		t.Fatalf("%+v", c)
	}
	background(t, filepath.Join(dir, "pid"))
	for _, name := range []string{"log", "capture", "conf", "flows"} {
		if _, err := os.Lstat(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
}

// TestPastaCommandLogsToFile, as all others do.
func TestPastaCommandLogsToFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "log")
	c := call(t, pastaLink(t), append(closedPorts[:len(closedPorts):len(closedPorts)], "--config-net", "-d", "-l", file, "--", "true")...)
	if c.code != 0 || c.said != "" {
		t.Errorf("%+v", c)
	}
	if log := string(must(os.ReadFile(file))(t)); !strings.HasPrefix(log, "pasta ") || !strings.Contains(log, "level=DEBUG") {
		t.Errorf("the log: %q", log)
	}
}

// TestPastaCaptures what crosses the interface, both ways, in a file that other programs read,
// from the background too.
func TestPastaCaptures(t *testing.T) {
	t.Parallel()
	g, file := newGuest(t), filepath.Join(t.TempDir(), "capture")
	d := pastaDaemon(t, g, append([]string{"-p", file}, closedPorts...)...)
	w := &world{Guest: g}
	sent := &traffic{streams: map[netip.AddrPort][]byte{}, datagrams: map[string]int{}}
	eachFamily(t, func(t *testing.T, f family) {
		w.waitAddress(t, f.af)
		data := random(uint64(f.af), bulk)
		c := w.dial(t, "tcp"+f.v, serveTCP(t, env.Net.Net, "tcp"+f.v, net.JoinHostPort(f.server, "0"), echoTCP).String())
		comesBack(t, c, data)
		sent.streams[addrPort(c.LocalAddr())] = data
		hello := "hello over " + f.name
		u := w.dial(t, "udp"+f.v, servePacket(t, env.Net.Net, "udp"+f.v, net.JoinHostPort(f.server, "0"), echoPacket).LocalAddr().String())
		if err := says(u, hello); err != nil {
			t.Error(err)
		}
		sent.datagrams[hello] = 2
	})
	if err := unix.PidfdSendSignal(d.fd, unix.SIGTERM, nil, 0); err != nil {
		t.Fatal(err)
	}
	if !d.ends(deadline) {
		t.Fatal("it goes on")
	}
	capture := readCapture(t, file)
	if capture.Interface != tapName || capture.Lost != 0 {
		t.Errorf("of %q, %d frames lost", capture.Interface, capture.Lost)
	}
	found := dissect(t, capture)
	sent.wantIn(t, found)
	complaints(t, file, found.repeated)
}

// TestPastaLogs counters each second in the background, in a file that never has more bytes
// than it may, and whose first line says whose it is.
func TestPastaLogs(t *testing.T) {
	t.Parallel()
	const limit = 4096
	file := filepath.Join(t.TempDir(), "log")
	d := pastaDaemon(t, newGuest(t), append([]string{"-l", file, "--log-size", fmt.Sprint(limit), "--stats", "1"}, closedPorts...)...)
	first := regexp.MustCompile(`^pasta \S+: /\S+ \(` + fmt.Sprint(d.pid) + `\)$`)
	var begin string // the first line of counters
	eventually(t, 3*deadline, func() error {
		b := must(os.ReadFile(file))(t)
		lines := strings.Split(string(b), "\n")
		if len(b) > limit || !first.MatchString(lines[0]) {
			t.Fatalf("%d bytes, and the first line is %q", len(b), lines[0])
		}
		if len(lines) < 2 || !strings.Contains(lines[1], "msg=counters") {
			return fmt.Errorf("the log: %q", lines)
		}
		if begin == "" {
			begin = lines[1]
		}
		if lines[1] == begin {
			return fmt.Errorf("the oldest of %d bytes is still there", len(b))
		}
		return nil
	})
	if d.ends(time.Millisecond) {
		t.Error("it has ended")
	}
}

// TestPastaReloadsPolicy: SIGHUP has the process in the background read its policy again.
func TestPastaReloadsPolicy(t *testing.T) {
	t.Parallel()
	server := serveTCP(t, env.Net.Net, "tcp4", net.JoinHostPort(families()[0].server, "0"), echoTCP).String()
	g, file := newGuest(t), filepath.Join(t.TempDir(), "policy")
	writeFile(t, file, "allow "+server+"\n")
	d := pastaDaemon(t, g, append([]string{"--policy", file}, closedPorts...)...)
	w := &world{Guest: g}
	w.waitAddress(t, unix.AF_INET)
	if err := says(w.dial(t, "tcp4", server), "allowed"); err != nil {
		t.Error(err)
	}
	writeFile(t, file, "allow nothing.example:443\n")
	if err := unix.PidfdSendSignal(d.fd, unix.SIGHUP, nil, 0); err != nil {
		t.Fatal(err)
	}
	eventually(t, deadline, func() error {
		c, err := w.Dial(timeout(t, deadline), "tcp4", server)
		if err == nil {
			c.Close()
			return fmt.Errorf("a new connection is allowed")
		}
		return nil
	})
	if d.ends(0) {
		t.Error("it has ended")
	}
}
