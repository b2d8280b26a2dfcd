package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"time"

	"epiphyte/test/harness"
)

// waitTime is how long a started server or a stopped helper may take.
const waitTime = 5 * time.Second

// podmanPorts: published ports by both handlers. With rootlesskit, podman's
// default, a program of podman's own carries the connections and nothing is
// asked of the helper; with slirp4netns the helper is asked on its socket.
func podmanPorts() []check {
	var checks []check
	for _, handler := range []string{"rootlesskit", "slirp4netns"} {
		var needs []need
		if handler == "slirp4netns" {
			needs = []need{option("--api-socket")}
		}
		add := func(what, says string, run func(context.Context, *machine, string) error, more ...need) {
			checks = append(checks, check{
				name: "podman/publish-" + handler + "-" + what, says: says,
				needs: append(append([]need{}, needs...), more...),
				run: func(ctx context.Context, m *machine) error {
					return run(ctx, m, "--network=slirp4netns:port_handler="+handler)
				},
			})
		}
		add("tcp", "a TCP port reached from outside and from the host", publishTCP)
		add("udp", "a UDP port reached from outside", publishUDP)
		add("range", "a range of ports, first and last", publishRange)
		add("host-ip", "a port published on 127.0.0.1 is closed to the outside", publishHostIP)
		add("busy", "a port that is taken is refused by name, and free after its owner stops", publishBusy)
		add("restart", "published ports work after podman restart", publishRestart)
		if handler == "slirp4netns" {
			add("source", "the server sees the client's address and port, TCP and UDP; a client on the host is the gateway", publishSource)
			add("udp-loopback", "a UDP port reached from the host's loopback", publishUDPLoopback, beyond)
			add("thousand", "a thousand TCP ports", publishThousand)
			add("socket-gone", "the control socket is gone after podman stop", publishSocketGone, beyond)
			add("ipv6", "a port published on an IPv6 address of the host", publishIPv6, beyond)
		} else {
			add("source", "the server sees the container's own address", publishOwnSource)
			add("udp-loopback", "a UDP port reached from the host's loopback", publishUDPLoopback)
		}
	}
	return checks
}

// reach converses with a published port until it works: callers say that a
// container runs before its server listens.
func reach(ctx context.Context, dial dialer, network, addr string, size int) (x exchange, err error) {
	err = harness.Eventually(waitTime, func() (err error) {
		x, err = ask(ctx, dial, network, addr, size)
		return err
	})
	if err != nil {
		err = fmt.Errorf("reach %s %s: %w", network, addr, err)
	}
	return x, err
}

// reachBoth does so from outside and from the host's loopback.
func reachBoth(ctx context.Context, m *machine, network, port string, size int) error {
	_, err1 := reach(ctx, m.net.fromOutside, network, net.JoinHostPort(hostIPv4, port), size)
	_, err2 := reach(ctx, m.net.fromHost, network, net.JoinHostPort("127.0.0.1", port), size)
	return errors.Join(err1, err2)
}

// closed says whether a TCP port is refused.
func closed(ctx context.Context, dial dialer, addr string) error {
	_, err := ask(ctx, dial, "tcp", addr, 1)
	return failsWith(err, "refused")
}

func publishTCP(ctx context.Context, m *machine, mode string) error {
	if err := podmanServe(ctx, m, "one", mode, "--publish=8080:80"); err != nil {
		return err
	}
	return reachBoth(ctx, m, "tcp", "8080", 1<<20)
}

func publishUDP(ctx context.Context, m *machine, mode string) error {
	if err := podmanServe(ctx, m, "one", mode, "--publish=8080:80/udp"); err != nil {
		return err
	}
	_, err := reach(ctx, m.net.fromOutside, "udp", net.JoinHostPort(hostIPv4, "8080"), 1000)
	return err
}

// publishUDPLoopback: slirp4netns drops the answers when host loopback is off,
// as podman has it.
func publishUDPLoopback(ctx context.Context, m *machine, mode string) error {
	if err := podmanServe(ctx, m, "one", mode, "--publish=8080:80/udp"); err != nil {
		return err
	}
	_, err := reach(ctx, m.net.fromHost, "udp", "127.0.0.1:8080", 1000)
	return err
}

func publishRange(ctx context.Context, m *machine, mode string) error {
	if err := podmanServe(ctx, m, "one", mode, "--publish=8061-8080:61-80", "--publish=8081-8090:80-89"); err != nil {
		return err
	}
	if err := reachBoth(ctx, m, "tcp", "8080", 1000); err != nil {
		return err
	}
	_, err := reach(ctx, m.net.fromOutside, "tcp", net.JoinHostPort(hostIPv4, "8081"), 1000)
	return err
}

func publishHostIP(ctx context.Context, m *machine, mode string) error {
	if err := podmanServe(ctx, m, "one", mode, "--publish=127.0.0.1:8080:80"); err != nil {
		return err
	}
	_, err := reach(ctx, m.net.fromHost, "tcp", "127.0.0.1:8080", 1000)
	return errors.Join(err, closed(ctx, m.net.fromOutside, net.JoinHostPort(hostIPv4, "8080")))
}

func publishBusy(ctx context.Context, m *machine, mode string) error {
	if err := podmanServe(ctx, m, "one", mode, "--publish=8080:80"); err != nil {
		return err
	}
	err := podmanServe(ctx, m, "two", mode, "--publish=8080:80")
	if err := failsWith(err, "8080", "address already in use", "add_hostfwd"); err != nil {
		return err
	}
	if _, err := m.do(ctx, "podman", "rm", "--force", "--time=0", "one", "two"); err != nil {
		return err
	}
	if err := podmanServe(ctx, m, "two", mode, "--publish=8080:80"); err != nil {
		return fmt.Errorf("after its owner stopped: %w", err)
	}
	return reachBoth(ctx, m, "tcp", "8080", 1000)
}

func publishRestart(ctx context.Context, m *machine, mode string) error {
	if err := podmanServe(ctx, m, "one", mode, "--publish=8080:80", "--publish=8080:80/udp"); err != nil {
		return err
	}
	for range 3 {
		if _, err := m.do(ctx, "podman", "restart", "--time=1", "one"); err != nil {
			return err
		}
		_, err := reach(ctx, m.net.fromOutside, "udp", net.JoinHostPort(hostIPv4, "8080"), 1000)
		if err := errors.Join(err, reachBoth(ctx, m, "tcp", "8080", 1000)); err != nil {
			return err
		}
	}
	return m.helperCount(1)
}

func publishSource(ctx context.Context, m *machine, mode string) error {
	if err := podmanServe(ctx, m, "one", mode, "--publish=8080:80", "--publish=8080:80/udp"); err != nil {
		return err
	}
	for _, network := range []string{"tcp", "udp"} {
		x, err := reach(ctx, m.net.fromOutside, network, net.JoinHostPort(hostIPv4, "8080"), 1000)
		if err != nil {
			return err
		}
		if x.peer != x.local {
			return fmt.Errorf("%s client %s is seen as %s", network, x.local, x.peer)
		}
	}
	x, err := reach(ctx, m.net.fromHost, "tcp", "127.0.0.1:8080", 1000)
	if err == nil && host(x.peer) != "10.0.2.2" {
		err = fmt.Errorf("the host's loopback is seen as %s", x.peer)
	}
	return err
}

func publishOwnSource(ctx context.Context, m *machine, mode string) error {
	if err := podmanServe(ctx, m, "one", mode, "--publish=8080:80"); err != nil {
		return err
	}
	x, err := reach(ctx, m.net.fromOutside, "tcp", net.JoinHostPort(hostIPv4, "8080"), 1000)
	if err == nil && !strings.HasPrefix(x.peer, "10.0.2.100:") {
		err = fmt.Errorf("client is seen as %s", x.peer)
	}
	return err
}

func publishThousand(ctx context.Context, m *machine, mode string) error {
	if err := podmanServe(ctx, m, "one", mode, "--publish=9000-9999:9000-9999", "--publish=8080:80"); err != nil {
		return err
	}
	// The container listens on 80 alone: behind the others it refuses.
	if err := reachBoth(ctx, m, "tcp", "8080", 1000); err != nil {
		return err
	}
	for _, port := range []string{"9000", "9999"} {
		c, err := m.net.fromOutside(ctx, "tcp", net.JoinHostPort(hostIPv4, port))
		if err == nil {
			c.Close()
		} else if failsWith(err, "reset", "refused") != nil {
			return err
		}
	}
	return nil
}

// publishSocketGone: podman makes the name from its TMPDIR and never looks at
// it again.
func publishSocketGone(ctx context.Context, m *machine, mode string) error {
	if err := podmanServe(ctx, m, "one", mode, "--publish=8080:80"); err != nil {
		return err
	}
	if _, err := m.do(ctx, "podman", "stop", "--time=1", "one"); err != nil {
		return err
	}
	return harness.Eventually(waitTime, func() error {
		for _, pattern := range []string{homeDir + "/tmp/*.net", runtimeDir + "/libpod/tmp/*.net", "/tmp/*.net"} {
			if left, err := filepath.Glob(pattern); err != nil || len(left) > 0 {
				return errors.Join(err, fmt.Errorf("left: %v", left))
			}
		}
		return nil
	})
}

func publishIPv6(ctx context.Context, m *machine, mode string) error {
	if err := podmanServe(ctx, m, "one", mode, "--publish=["+hostIPv6+"]:8080:80"); err != nil {
		return err
	}
	x, err := reach(ctx, m.net.fromOutside, "tcp", net.JoinHostPort(hostIPv6, "8080"), 1000)
	if err == nil && x.peer != x.local {
		err = fmt.Errorf("client %s is seen as %s", x.local, x.peer)
	}
	return err
}
