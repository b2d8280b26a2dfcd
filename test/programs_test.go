package test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/test/harness"
)

// needs skips a test whose program is not installed; the behaviour itself is
// asserted by tests that need none.
func needs(t testing.TB, program string) string {
	t.Helper()
	for _, dir := range []string{"", "/usr/sbin/", "/sbin/"} {
		if path, err := exec.LookPath(dir + program); err == nil {
			return path
		}
	}
	t.Skipf("%s is not installed", program)
	return ""
}

func writeFile(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// frameCells lists the ways to carry frames.
func frameCells() []cell {
	var all []cell
	for _, mtu := range []string{"1500", "65520"} {
		all = append(all, cell{"MTU" + mtu, []string{"--mtu=" + mtu}})
		if env.Product {
			all = append(all, cell{"MTU" + mtu + "/noOffload", []string{"--mtu=" + mtu, "--no-offload"}})
		}
	}
	return all
}

// TestIperf3: TCP with 1 and 4 streams both ways, and UDP.
func TestIperf3(t *testing.T) {
	program := needs(t, "iperf3")
	for _, c := range frameCells() {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := serve(t, c.flags...)
			eachFamily(t, func(t *testing.T, f family) {
				server := serveIperf3(t, program, f.server)
				for i, args := range []string{
					"-n 64M", "-n 64M -R", "-n 64M -P 4", "-n 64M -P 4 -R", "-u -b 100M -n 2M -l 1200", "-u -b 100M -n 2M -l 1200 -R",
				} {
					server.wait(t, i+1)
					ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
					out, err := w.Run(ctx, program, append([]string{"-c", f.server, "-p", server.port}, strings.Fields(args)...)...)
					cancel()
					if err != nil {
						t.Errorf("iperf3 %s: %v\n%s", args, err, out)
					}
				}
			})
		})
	}
}

// iperf3Server serves one test after the other and says when it is ready for
// the next.
type iperf3Server struct {
	port string
	log  string // file
}

func (s *iperf3Server) wait(t testing.TB, tests int) {
	t.Helper()
	eventually(t, deadline, func() error {
		b, err := os.ReadFile(s.log)
		if err == nil && strings.Count(string(b), "Server listening") < tests {
			err = fmt.Errorf("iperf3 server does not listen: %s", b)
		}
		return err
	})
}

func serveIperf3(t testing.TB, program, addr string) *iperf3Server {
	t.Helper()
	l := must(env.Net.Net.Listen("tcp", net.JoinHostPort(addr, "0")))(t)
	s := &iperf3Server{port: port(l.Addr()), log: filepath.Join(t.TempDir(), "iperf3.log")}
	l.Close()
	cmd := exec.Command(program, "-s", "-B", addr, "-p", s.port, "--logfile", s.log, "--forceflush")
	if err := env.Net.Net.Start(cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return s
}

// TestDig: the DNS address answers dig by UDP and TCP, of both families.
func TestDig(t *testing.T) {
	t.Parallel()
	program := needs(t, "dig")
	serveDNS(t, env.Net.Net, "198.51.100.4", named("192.0.2.44"))
	w := serveWith(t, harness.HelperConfig{Etc: etc(t, "198.51.100.4")})
	eachFamily(t, func(t *testing.T, f family) {
		for _, transport := range []string{"+notcp", "+tcp"} {
			out, err := w.Run(timeout(t, deadline), program, "@"+f.dns, "+short", "+tries=1", transport, "name.example")
			if err != nil || strings.TrimSpace(out) != "192.0.2.44" {
				t.Errorf("dig %s: %v\n%s", transport, err, out)
			}
		}
	})
}

// TestPing: three of three come back, from the gateway and from the internet.
func TestPing(t *testing.T) {
	t.Parallel()
	program := needs(t, "ping")
	for _, c := range frameCells() {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := serve(t, c.flags...)
			eachFamily(t, func(t *testing.T, f family) {
				for _, dst := range []string{f.gateway, f.dns, f.server} {
					if f.af == unix.AF_INET6 && dst == f.server {
						ours(t, "external IPv6 echo")
					}
					out, err := w.Run(timeout(t, deadline), program, "-n", "-c", "3", "-i", "0.2", "-W", "2", dst)
					if err != nil || !strings.Contains(out, "3 received") {
						t.Errorf("ping %s: %v\n%s", dst, err, out)
					}
				}
			})
		})
	}
}

// TestTraceroute shows the gateway, the host's router and the target.
func TestTraceroute(t *testing.T) {
	t.Parallel()
	program := needs(t, "traceroute")
	w := serve(t)
	eachFamily(t, func(t *testing.T, f family) {
		if f.af == unix.AF_INET6 {
			ours(t, "time exceeded for IPv6")
		}
		router := map[int]string{unix.AF_INET: harness.RouterIPv4, unix.AF_INET6: harness.RouterIPv6}[f.af]
		out, err := w.Run(timeout(t, 30*time.Second), program, "-n", "-q", "1", "-w", "2", "-m", "5", f.server)
		if err != nil {
			t.Fatalf("traceroute: %v\n%s", err, out)
		}
		lines := strings.Split(strings.TrimSpace(out), "\n")[1:]
		want := []string{f.gateway, router, f.server}
		if len(lines) != len(want) {
			t.Fatalf("%d hops, want %v:\n%s", len(lines), want, out)
		}
		for i, line := range lines {
			if fields := strings.Fields(line); len(fields) < 2 || !sameHop(f, fields[1], want[i]) {
				t.Errorf("hop %d is %q, want %s", i+1, line, want[i])
			}
		}
	})
}
