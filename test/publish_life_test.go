package test

import (
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/test/harness"
)

// TestB5_RestartWithTheSamePort: 50 rounds on one port, each stopped in another
// way and followed at once, with a connection open and others just closed.
func TestB5_RestartWithTheSamePort(t *testing.T) {
	t.Parallel()
	ours(t, "--publish")
	g := newGuest(t)
	const hostPort = "18005"
	var slowest time.Duration
	for round := range 50 {
		if !t.Run("", func(t *testing.T) {
			flags := []string{"-6"}
			for _, f := range families() {
				flags = append(flags, f.rule(hostPort)+":"+guestPort, f.rule(hostPort)+":"+guestPort+"/udp")
			}
			h := attach(t, g, harness.HelperConfig{}, flags...)
			slowest = max(slowest, h.Ready)
			(&world{Guest: g}).waitAddress(t, unix.AF_INET6)
			for _, f := range families() {
				serveTCP(t, g.NetNS, "tcp"+f.v, f.anyHost()+":"+guestPort, echoTCP)
				for range 3 {
					c := client(t, env.Host, "tcp"+f.v, net.JoinHostPort(f.loop, hostPort))
					if err := says(c, "hello"); err != nil {
						t.Fatal(err)
					}
				}
				client(t, env.Net.Net, "tcp"+f.v, net.JoinHostPort(f.host(), hostPort)).Close()
			}
			stop(t, h, round)
		}) {
			break
		}
	}
	t.Logf("slowest start: %v", slowest)
}

// stop has a helper end in one of three ways: asked to, by its exit descriptor,
// or killed, which attach's cleanup does to all.
func stop(t *testing.T, h *harness.Helper, round int) {
	t.Helper()
	var err error
	switch round % 3 {
	case 0:
		err = h.Signal(unix.SIGTERM)
	case 1:
		err = h.CloseExitFD()
	}
	if err != nil {
		t.Error(err)
	}
}

// TestB5_StartWhileThePredecessorDies: the port is waited for.
func TestB5_StartWhileThePredecessorDies(t *testing.T) {
	ours(t, "--publish")
	first, second := newGuest(t), newGuest(t)
	h := attach(t, first, harness.HelperConfig{}, "-p", "18006:8080")
	stop := time.AfterFunc(300*time.Millisecond, func() { _ = h.Signal(unix.SIGTERM) })
	defer stop.Stop()
	if took := attach(t, second, harness.HelperConfig{}, "-p", "18006:8080").Ready; took < 250*time.Millisecond || took > 5*time.Second {
		t.Errorf("ready after %v, when the port was free after 300 ms", took)
	}
}

// TestB32_ThousandPorts: ready about as soon as without, one descriptor each and no
// process, the direct path's agent and its stock of sockets apart; and the first
// and the last of them work.
func TestB32_ThousandPorts(t *testing.T) {
	ours(t, "--publish")
	var none harness.Usage
	var alone time.Duration
	flags := append(onDevice(), "--publish-mode=stack") // an agent is a process, and has a stock
	t.Run("without", func(t *testing.T) {
		w := serve(t, flags...)
		none, alone = w.usage(t), w.helper.Ready
	})
	eachFamily(t, func(t *testing.T, f family) {
		for _, proto := range []string{"tcp", "udp"} {
			t.Run(proto, func(t *testing.T) {
				w := serve(t, append(flags, f.rule("20000-20999")+":30000-30999/"+proto)...)
				if w.helper.Ready > 10*alone+time.Second {
					t.Errorf("ready after %v, %v without ports", w.helper.Ready, alone)
				}
				now := w.usage(t)
				if got := now.FDs - none.FDs; got < 1000-runtimePoller || got > 1000+runtimePoller {
					t.Errorf("%d descriptors for 1000 ports", got)
				}
				if kids := w.helper.Descendants(); len(kids) > 0 {
					t.Errorf("processes: %v", kids)
				}
				// Package portfwd measures what a port costs; a resident set is only
				// good for a bound.
				if grown := now.RSS - none.RSS; grown > 4<<20 {
					t.Errorf("grown by %d kB for 1000 ports", grown>>10)
				}
				t.Logf("ready after %v, %d kB more resident", w.helper.Ready, (now.RSS-none.RSS)>>10)
				for _, n := range []int{0, 500, 999} {
					at := fmt.Sprintf("%s:%d", f.anyHost(), 30000+n)
					if proto == "tcp" {
						serveTCP(t, w.NetNS, "tcp"+f.v, at, echoTCP)
					} else {
						servePacket(t, w.NetNS, "udp"+f.v, at, echoPacket)
					}
					if err := says(client(t, env.Host, proto+f.v, net.JoinHostPort(f.loop, fmt.Sprint(20000+n))), "hello"); err != nil {
						t.Errorf("port %d: %v", 20000+n, err)
					}
				}
			})
		}
	})
}

// TestB36_FailureIsOneLineAndNothingPublished: exit status 1, a line that names
// the port and what to do, and no port is left; nor is there an interface, not
// even while a busy port is waited for.
func TestB36_FailureIsOneLineAndNothingPublished(t *testing.T) {
	ours(t, "--publish")
	busy := serveTCP(t, env.Host, "tcp4", "127.0.0.1:0", echoTCP)
	var first int // host port of a rule that works, before the one that does not
	for name, c := range map[string]struct {
		rule string
		says []string
		took time.Duration
	}{
		"busy":         {fmt.Sprintf("127.0.0.1:%s:80", port(busy)), []string{busy.String(), "address already in use"}, 4 * time.Second},
		"busy range":   {fmt.Sprintf("127.0.0.1:%s-65535", port(busy)), []string{busy.String(), "address already in use"}, 4 * time.Second},
		"below 1024":   {"80", []string{"0.0.0.0:80", "permission denied", "net.ipv4.ip_unprivileged_port_start=80"}, time.Second},
		"UDP":          {"53/udp", []string{"udp", "0.0.0.0:53", "permission denied"}, time.Second},
		"IPv6":         {"[::]:80", []string{"[::]:80", "permission denied"}, time.Second},
		"not ours":     {"203.0.113.1:8080", []string{"203.0.113.1:8080", "cannot assign requested address"}, time.Second},
		"no interface": {"nosuch0:8080", []string{"nosuch0", "no such network interface"}, time.Second},
		"twice":        {"", []string{"address already in use", "published by 127.0.0.1:1836", "already"}, time.Second},
	} {
		first++
		works := fmt.Sprintf("127.0.0.1:%d", 18360+first)
		if c.rule == "" {
			c.rule = works
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGuest(t)
			begin := time.Now()
			h := must(env.Start(timeout(t, deadline), harness.HelperConfig{
				Args: []string{"-6", "-c", "-r", harness.ReadyFD, "-p", works, "-p", c.rule, fmt.Sprint(g.PID), tapName}, NoWait: true,
			}))(t)
			defer h.Kill()
			seen := watchLinks(g, h, 0)
			code, sig, err := h.Exit(timeout(t, deadline))
			if links := <-seen; links != "" {
				t.Errorf("while it failed the guest had %s", links)
			}
			if took := time.Since(begin); err != nil || code != 1 || late(t, took, c.took) {
				t.Errorf("exit status %d, signal %v, %v after %v, want 1", code, sig, err, took)
			}
			if err := h.WaitReady(timeout(t, time.Second)); err == nil {
				t.Error("the ready byte was written")
			}
			said := strings.TrimSpace(h.Stderr.String())
			for _, word := range c.says {
				if !strings.Contains(said, word) {
					t.Errorf("said %q, which does not name %q", said, word)
				}
			}
			if strings.Contains(said, "\n") {
				t.Errorf("more than a line: %q", said)
			}
			if links, err := g.Links(); err != nil || len(links) > 0 {
				t.Errorf("left behind in the guest: %v, %v", links, err)
			}
			if err := refusal(t, env.Host, "tcp4", works); !isErrno(err, unix.ECONNREFUSED) {
				t.Errorf("the rule before it is still published: %v", err)
			}
		})
	}
	for _, rule := range []string{"x", "80/sctp", "80-79", "80:90-91", ""} {
		h := must(env.Start(timeout(t, deadline), harness.HelperConfig{Args: []string{"-p", rule, "1", tapName}, NoWait: true}))(t)
		code, _, err := h.Exit(timeout(t, deadline))
		if err != nil || code != 1 || !strings.Contains(h.Stderr.String(), fmt.Sprintf("%q", rule)) {
			t.Errorf("-p %q: exit status %d, %v, %q", rule, code, err, h.Stderr)
		}
		h.Kill()
	}
}

// watchLinks looks at the guest until the helper ends: what its interfaces were
// when they were not as many as expected.
func watchLinks(g *harness.Guest, h *harness.Helper, expected int) <-chan string {
	seen := make(chan string, 1)
	go func() {
		for {
			select {
			case <-h.Done():
				seen <- ""
				return
			default:
			}
			if links, err := g.Links(); err != nil || len(links) != expected {
				seen <- fmt.Sprint(links, err)
				return
			}
		}
	}()
	return seen
}

// TestB36_MorePortsThanDescriptors: a range that the limit of open files has no
// room for is refused, with the remedy.
func TestB36_MorePortsThanDescriptors(t *testing.T) {
	ours(t, "--publish")
	g := newGuest(t)
	h := must(env.Start(timeout(t, deadline), harness.HelperConfig{
		Wrap: []string{"sh", "-c", `ulimit -n 300; exec "$0" "$@"`},
		Args: []string{"-c", "-p", "20000-20999", fmt.Sprint(g.PID), tapName}, NoWait: true,
	}))(t)
	defer h.Kill()
	code, _, err := h.Exit(timeout(t, deadline))
	if said := h.Stderr.String(); err != nil || code != 1 || strings.Count(said, "\n") != 1 || !strings.Contains(said, "too many open files") || !strings.Contains(said, "ulimit") {
		t.Errorf("exit status %d, %v, %q", code, err, said)
	}
	if links, err := g.Links(); err != nil || len(links) > 0 {
		t.Errorf("left behind in the guest: %v, %v", links, err)
	}
}

// TestRunPublishes: a server that run's command starts is reached, and sees who
// asks; a port that cannot be had keeps the command from starting.
func TestRunPublishes(t *testing.T) {
	ours(t, "--publish")
	needs(t, "perl")
	const server = `$s = IO::Socket::INET->new(Listen => 5, LocalPort => 8080) or die $!; $| = 1; print "listening\n";
		$c = $s->accept or die $!; print $c "hello ", $c->peerhost, "\n"; close $c`
	h := run(t, harness.HelperConfig{}, "-p", "18018:8080", "--", "perl", "-MIO::Socket::INET", "-e", server)
	eventually(t, deadline, func() error {
		if !strings.Contains(h.Stdout.String(), "listening") {
			return fmt.Errorf("no server: %s%s", h.Stdout, h.Stderr)
		}
		return nil
	})
	o := origins(families()[0])[2]
	got, err := io.ReadAll(o.dial(t, families()[0], "tcp4", harness.HostIPv4+":18018"))
	if want := "hello " + harness.NetIPv4 + "\n"; err != nil || string(got) != want {
		t.Errorf("the command's server said %q, %v, want %q", got, err, want)
	}
	if code, _, err := h.Exit(timeout(t, deadline)); err != nil || code != 0 {
		t.Errorf("exit status %d, %v: %s", code, err, h.Stderr)
	}
	h = run(t, harness.HelperConfig{}, "-p", "80", "--", "echo", "started")
	if code, _, err := h.Exit(timeout(t, deadline)); err != nil || code != 1 || h.Stdout.String() != "" || strings.Count(h.Stderr.String(), "\n") != 1 {
		t.Errorf("a port that cannot be had: exit status %d, %v, %q, %q", code, err, h.Stdout, h.Stderr)
	}
}
