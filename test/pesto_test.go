package test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"epiphyte/test/harness"
)

// forwarding is a guest whose ports pesto changes.
type forwarding struct {
	*harness.Guest
	dir    string // of the socket, and of links to the program by its other names
	socket string
	helper *harness.Helper // pasta
}

// newForwarding makes a guest, with the address of a container in it, which pasta does not
// serve yet.
func newForwarding(t *testing.T) *forwarding {
	t.Helper()
	ours(t, "pasta")
	// Not t.TempDir, whose paths are too long for those of sockets.
	dir := must(os.MkdirTemp("", "pesto-"))(t)
	f := &forwarding{dir: dir, socket: filepath.Join(dir, "s")}
	for _, name := range []string{"pasta", "pesto"} {
		if err := os.Symlink(env.Binary, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	f.Guest = newGuest(t)
	if err := f.Do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err == nil {
			err = netlink.LinkSetUp(lo)
		}
		if err != nil {
			return err
		}
		for _, cidr := range []string{container4 + "/32", container6 + "/128"} {
			addr, err := netlink.ParseAddr(cidr)
			if err == nil {
				err = netlink.AddrAdd(lo, addr)
			}
			if err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return f
}

// Addresses of the container, which are the guest's beside its own.
const (
	container4 = "10.89.0.2"
	container6 = "fd00:89::2"
)

// command starts the program by another name.
func (f *forwarding) command(t testing.TB, name string, args ...string) *harness.Helper {
	t.Helper()
	link := filepath.Join(f.dir, name)
	h := must(env.Start(timeout(t, deadline), harness.HelperConfig{
		Wrap: []string{"sh", "-c", `exec "` + link + `" "$@"`}, Args: args, Plain: true, NoWait: true,
	}))(t)
	t.Cleanup(h.Kill)
	return h
}

// start has pasta serve the guest, with no ports but those of the flags.
func (f *forwarding) start(t testing.TB, flags ...string) {
	t.Helper()
	args := []string{"--foreground", "--config-net", "--conf-path", f.socket}
	for _, option := range []string{"-t", "-u", "-T", "-U"} {
		if !slices.Contains(flags, option) {
			args = append(args, option, "none")
		}
	}
	f.helper = f.command(t, "pasta", append(append(args, flags...), fmt.Sprint(f.PID))...)
	eventually(t, deadline, func() error {
		select {
		case <-f.helper.Done():
			t.Fatalf("pasta has ended: %s", f.helper.Stderr)
		default:
		}
		out, code := f.pesto(t, f.socket)
		if code != 0 {
			return errors.New(out)
		}
		return nil
	})
}

// stop ends pasta by a signal.
func (f *forwarding) stop(t testing.TB, s unix.Signal) {
	t.Helper()
	if err := f.helper.Signal(s); err != nil {
		t.Fatal(err)
	}
	if _, _, err := f.helper.Exit(timeout(t, deadline)); err != nil {
		t.Fatal(err)
	}
}

// pesto calls pesto, and returns all that it says.
func (f *forwarding) pesto(t testing.TB, args ...string) (string, int) {
	t.Helper()
	h := f.command(t, "pesto", args...)
	code, sig, err := h.Exit(timeout(t, deadline))
	h.Kill() // closes what is left open
	if err != nil || sig != 0 {
		t.Fatalf("pesto %.200q: signal %v, %v: %s%s", args, sig, err, h.Stdout, h.Stderr)
	}
	if said := h.Stderr.String(); (code == 0) != (said == "") || strings.Count(said, "\n") > 1 {
		t.Errorf("pesto %.200q: exit status %d, stderr %q", args, code, said)
	}
	return h.Stdout.String() + h.Stderr.String(), code
}

// do calls pesto with options before the socket, and wants it to succeed silently.
func (f *forwarding) do(t testing.TB, line string) {
	t.Helper()
	if out, code := f.pesto(t, append(strings.Fields(line), f.socket)...); code != 0 || out != "" {
		t.Errorf("pesto %.200s: exit status %d, %s", line, code, out)
	}
}

// shown is the ports that pesto shows, without the blocks' heads.
func (f *forwarding) shown(t testing.TB) (lines []string) {
	t.Helper()
	out, code := f.pesto(t, f.socket)
	if code != 0 {
		t.Fatalf("pesto: exit status %d, %s", code, out)
	}
	for line := range strings.Lines(out) {
		if rule, ok := strings.CutPrefix(line, "    "); ok {
			lines = append(lines, strings.TrimSpace(rule))
		}
	}
	return lines
}

func (f *forwarding) wantShown(t testing.TB, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, f.shown(t)); diff != "" {
		t.Error(diff)
	}
}

// reaches has a client of the host's loopback talk to an echo server behind the port.
func reaches(t testing.TB, network, addr string) {
	t.Helper()
	c, err := env.Host.Dial(timeout(t, deadline), network, addr)
	if err != nil {
		t.Error(err)
		return
	}
	defer c.Close()
	if err := errors.Join(c.SetDeadline(time.Now().Add(deadline)), says(c, "hello")); err != nil {
		t.Errorf("%s %s: %v", network, addr, err)
	}
}

// closed wants nobody to listen on the port of the host.
func closed(t testing.TB, addr string) {
	t.Helper()
	c, err := env.Host.Dial(timeout(t, deadline), "tcp", addr)
	if err == nil {
		c.Close()
	}
	if !isErrno(err, unix.ECONNREFUSED) {
		t.Errorf("%s: %v", addr, err)
	}
}

// TestPestoSession: add, show, delete and conflicts, and what a client finds each time.
func TestPestoSession(t *testing.T) {
	t.Parallel()
	f := newForwarding(t)
	f.start(t, "-t", "17300:8080")
	serveTCP(t, f.NetNS, "tcp", "[::]:8080", echoTCP)
	servePacket(t, f.NetNS, "udp4", "0.0.0.0:8080", echoPacket)
	serveTCP(t, f.NetNS, "tcp4", container4+":80", echoTCP)
	serveTCP(t, f.NetNS, "tcp6", "["+container6+"]:80", echoTCP)
	serveTCP(t, env.Host, "tcp4", "127.0.0.1:17399", echoTCP)

	f.wantShown(t, "TCP *:17300  =>  8080")
	reaches(t, "tcp", "127.0.0.1:17300")
	reaches(t, "tcp", "[::1]:17300")

	// As podman does, addresses of containers included.
	f.do(t, "--add -t 0.0.0.0/17301:"+container4+"/80 -t [::]/17301:"+container6+"/80 -u 0.0.0.0/17301:8080")
	reaches(t, "tcp", "127.0.0.1:17301")
	reaches(t, "tcp", "[::1]:17301")
	reaches(t, "udp", "127.0.0.1:17301")
	want := []string{
		"TCP *:17300  =>  8080", "TCP [0.0.0.0]:17301  =>  [" + container4 + "]:80", "TCP [::]:17301  =>  [" + container6 + "]:80",
		"UDP [0.0.0.0]:17301  =>  8080",
	}
	f.wantShown(t, want...)
	f.do(t, "-A -t 0.0.0.0/17301:"+container4+"/80 -t 17300:8080") // there already
	f.do(t, "-D -t 17302 -u 17302 -T 17302")                       // not there
	f.wantShown(t, want...)

	// All or nothing.
	busy := serveTCP(t, env.Host, "tcp4", "127.0.0.1:0", echoTCP)
	for line, says := range map[string]string{
		"-A -t 17302:8080 -t 0.0.0.0/17301:8080":                       "-t 0.0.0.0/17301:8080 conflicts with -t 0.0.0.0/17301:" + container4 + "/80: port 17301",
		"-A -t 17302:8080 -t 127.0.0.1/17300:8080":                     "conflicts with -t 17300:8080: port 17300",
		"-D -t 17300:8080 -A -t 17302:8080 -t 127.0.0.1/" + port(busy): "address already in use",
		"-D -t 17300:8080 -A -t 17302:8080 -t 203.0.113.1/17303":       "cannot assign requested address",
		"-t 17302:8080 -t 0.0.0.0/80":                                  "permission denied",
		"-A -t 17302:8080 -t 0":                                        `"0" is not a port`,
	} {
		out, code := f.pesto(t, append(strings.Fields(line), f.socket)...)
		if code != 1 || !strings.HasPrefix(out, "pesto: ") || !strings.Contains(out, says) {
			t.Errorf("pesto %s: exit status %d, %s", line, code, out)
		}
	}
	f.wantShown(t, want...)
	closed(t, "127.0.0.1:17302")
	reaches(t, "tcp", "127.0.0.1:17300")

	// A port that changes where it leads has no moment without a listener, and a
	// connection outlives its port.
	c := client(t, env.Host, "tcp4", "127.0.0.1:17300")
	f.do(t, "-D -t 17300:8080 -A -t 17300:"+container4+"/80")
	reaches(t, "tcp", "127.0.0.1:17300")
	f.do(t, "--clear HOST")
	closed(t, "127.0.0.1:17300")
	if err := says(c, "still here"); err != nil {
		t.Error(err)
	}
	f.wantShown(t)

	// The other way around.
	f.do(t, "-A -T 17304:17399")
	f.wantShown(t, "TCP *:17304  =>  17399")
	inside := must(f.Dial(timeout(t, deadline), "tcp4", "127.0.0.1:17304"))(t)
	defer inside.Close()
	if err := says(inside, "hello"); err != nil {
		t.Error(err)
	}

	// Ports in place of all that there are; one of a range goes.
	f.do(t, "-t 17305-17309:8080-8084")
	f.do(t, "-D -t 17307:8082")
	f.wantShown(t, "TCP *:17305-17306  =>  8080-8081", "TCP *:17308-17309  =>  8083-8084")
	reaches(t, "tcp", "127.0.0.1:17305")
	closed(t, "127.0.0.1:17307")
	if _, err := f.Dial(timeout(t, deadline), "tcp4", "127.0.0.1:17304"); !isErrno(err, unix.ECONNREFUSED) {
		t.Errorf("the guest's port: %v", err)
	}

	// Nobody listens there when it has ended, and nothing is left but the ports.
	f.do(t, "-t none")
	f.stop(t, unix.SIGTERM)
	out, code := f.pesto(t, f.socket)
	if want := fmt.Sprintf("pesto: %s: nobody listens there: start pasta with -c %s\n", f.socket, f.socket); code != 1 || out != want {
		t.Errorf("exit status %d, %s", code, out)
	}
	for _, path := range []string{f.socket, f.socket + ".d"} {
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is left: %v", path, err)
		}
	}
}

// TestPestoThousandPorts: added, shown and deleted in one call each. What a call may take
// is said as what a call for one port takes beside it.
func TestPestoThousandPorts(t *testing.T) {
	f := newForwarding(t)
	f.start(t)
	for _, n := range []int{0, 999} {
		serveTCP(t, f.NetNS, "tcp4", fmt.Sprintf("%s:%d", container4, 20000+n), echoTCP)
	}
	begin := time.Now()
	f.do(t, "--add -t 19999")
	one := time.Since(begin)
	f.do(t, "--delete -t 19999")
	var ports strings.Builder
	for n := range 1000 {
		fmt.Fprintf(&ports, " -t 0.0.0.0/%d:%s/%d", 20000+n, container4, 20000+n)
	}
	begin = time.Now()
	f.do(t, "--add"+ports.String())
	all := time.Since(begin)
	t.Logf("one port: %v, 1000 ports: %v", one, all)
	if all > 5*one+2*time.Second {
		t.Errorf("1000 ports take %v, one takes %v", all, one)
	}
	if n := len(f.shown(t)); n != 1000 {
		t.Errorf("%d ports are shown", n)
	}
	for _, n := range []int{0, 999} {
		reaches(t, "tcp4", fmt.Sprintf("127.0.0.1:%d", 20000+n))
	}
	// Killed and started again, they are back.
	f.stop(t, unix.SIGKILL)
	f.start(t)
	if n := len(f.shown(t)); n != 1000 {
		t.Errorf("%d ports are back", n)
	}
	reaches(t, "tcp4", "127.0.0.1:20999")
	f.do(t, "--delete"+ports.String())
	f.wantShown(t)
	closed(t, "127.0.0.1:20000")
	// What the program says is no more than it says otherwise.
	if said := f.helper.Stderr.String(); strings.Count(said, "\n") > 10 {
		t.Errorf("%.2000s", said)
	}
}

// TestPestoAfterKill: what pesto has added is back, below what the command line says.
func TestPestoAfterKill(t *testing.T) {
	t.Parallel()
	f := newForwarding(t)
	serveTCP(t, f.NetNS, "tcp4", "0.0.0.0:8080", echoTCP)
	f.start(t)
	f.do(t, "-A -t 0.0.0.0/17310:8080 -t 17311:8080 -T 17312")
	f.stop(t, unix.SIGKILL)
	closed(t, "127.0.0.1:17310")
	f.start(t, "-t", "17313:8080")
	f.wantShown(t, "TCP *:17313  =>  8080", "TCP [0.0.0.0]:17310  =>  8080", "TCP *:17311  =>  8080", "TCP *:17312  =>  17312")
	reaches(t, "tcp4", "127.0.0.1:17310")
	reaches(t, "tcp4", "127.0.0.1:17313")

	// A file that somebody has had hands in is no reason not to start.
	f.stop(t, unix.SIGKILL)
	file := filepath.Join(f.socket+".d", "rules")
	content := must(os.ReadFile(file))(t)
	info := must(os.Stat(file))(t)
	if info.Mode() != 0o600 || !strings.Contains(string(content), "\n-t 0.0.0.0/17310:8080\n") {
		t.Errorf("%v: %s", info.Mode(), content)
	}
	busy := serveTCP(t, env.Host, "tcp4", "127.0.0.1:0", echoTCP)
	content = fmt.Appendf(content, "rubbish\n-t 127.0.0.1/%s\n-t 17314:8080\n", port(busy))
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	f.start(t, "-t", "17311:8081")
	f.wantShown(t, "TCP *:17311  =>  8081", "TCP [0.0.0.0]:17310  =>  8080", "TCP *:17314  =>  8080", "TCP *:17312  =>  17312")
	reaches(t, "tcp4", "127.0.0.1:17314")
	for _, want := range []string{"line=3", "line=5", "line=6"} {
		saysOnce(t, f.helper, want)
	}

	// The socket of a pasta that lives is not taken over.
	another := newGuest(t)
	other := f.command(t, "pasta", "--foreground", "--config-net", "-c", f.socket, "-t", "none", "-u", "none", "-T", "none", "-U", "none", fmt.Sprint(another.PID))
	if code, _, err := other.Exit(timeout(t, deadline)); code != 1 || !strings.Contains(other.Stderr.String(), "another process listens there") {
		t.Errorf("exit status %d, %v, %s", code, err, other.Stderr)
	}
	reaches(t, "tcp4", "127.0.0.1:17310")
	f.do(t, "-t none")
}

// TestPestoByCallers: the command lines of podman 6 and RootlessKit 3, word by word.
func TestPestoByCallers(t *testing.T) {
	f := newForwarding(t)
	// RootlessKit asks before it starts anything.
	for _, args := range [][]string{{"--version"}, {"--conf-path=/dev/null", "--version"}, {"--host-lo-to-ns-lo", "--version"}} {
		h := f.command(t, "pasta", args...)
		if code, _, err := h.Exit(timeout(t, deadline)); code != 0 || err != nil {
			t.Errorf("pasta %q: exit status %d, %v, %s", args, code, err, h.Stderr)
		}
	}
	if out, code := f.pesto(t, "--version"); code != 0 {
		t.Errorf("pesto --version: exit status %d, %s", code, out)
	}

	f.start(t)
	serveTCP(t, f.NetNS, "tcp", "[::]:80", echoTCP)
	for _, line := range []string{
		"-A --tcp-ports=0.0.0.0/17320:80", "-A --tcp-ports=::1/17320:80", // RootlessKit
		"--add -t 0.0.0.0/17321:" + container4 + "/80 -t [::]/17321:" + container6 + "/80 -u 0.0.0.0/17321-17322:" + container4 + "/80-81", // podman
		"--add -t 0.0.0.0/17321:" + container4 + "/80", // of a second network of the same container
	} {
		f.do(t, line)
	}
	for _, addr := range []string{"127.0.0.1:17320", "[::1]:17320", "127.0.0.1:17321", "[::1]:17321"} {
		reaches(t, "tcp", addr)
	}
	for _, line := range []string{
		"-D --tcp-ports=0.0.0.0/17320:80", "-D --tcp-ports=::1/17320:80",
		"--delete -t 0.0.0.0/17321:" + container4 + "/80 -t [::]/17321:" + container6 + "/80 -u 0.0.0.0/17321-17322:" + container4 + "/80-81",
		"--delete -t 0.0.0.0/17321:" + container4 + "/80", // gone already
	} {
		f.do(t, line)
	}
	f.wantShown(t)
	closed(t, "127.0.0.1:17321")
}

// TestPestoOverHTTP: any client of HTTP sees and changes the same.
func TestPestoOverHTTP(t *testing.T) {
	f := newForwarding(t)
	f.start(t)
	serveTCP(t, f.NetNS, "tcp4", "0.0.0.0:8080", echoTCP)
	answer := overHTTP(t, f.socket, "PATCH", "/v1/forwards", `{"add":["-t 0.0.0.0/17330:8080"]}`)
	if !strings.HasPrefix(answer, "HTTP/1.1 204 ") {
		t.Error(answer)
	}
	reaches(t, "tcp4", "127.0.0.1:17330")
	f.wantShown(t, "TCP [0.0.0.0]:17330  =>  8080")
	_, body, _ := strings.Cut(overHTTP(t, f.socket, "GET", "/v1/forwards", ""), "\r\n\r\n")
	var doc struct{ Forwards []string }
	if err := json.Unmarshal([]byte(body), &doc); err != nil || !slices.Equal(doc.Forwards, []string{"-t 0.0.0.0/17330:8080"}) {
		t.Errorf("%s, %v", body, err)
	}
	f.do(t, "-t none")
}

// overHTTP sends one request to a socket and returns the whole response.
func overHTTP(t testing.TB, socket, method, path, body string) string {
	t.Helper()
	c, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(deadline)); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(c, "%s %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s", method, path, len(body), body)
	b := must(io.ReadAll(c))(t)
	return string(b)
}
