package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"epiphyte/test/harness"
)

const kitState = runtimeDir + "/kit"

// rootlesskitSuite: RootlessKit makes the TAP and sets the addresses itself;
// the helper is asked for the packets alone, as a plain user from outside.
func rootlesskitSuite() suite {
	s := suite{
		needs: []need{
			slirp, program("rootlesskit", "rootlessctl", "newuidmap", "ip", "nsenter", "ping"), staticBusybox,
			works("RootlessKit without network", func(ctx context.Context, m *machine) error {
				_, err := m.do(ctx, "rootlesskit", "--state-dir="+kitState, "--copy-up=/etc", "true")
				return err
			}),
		},
		clean: func(ctx context.Context, m *machine) error {
			return errors.Join(m.noHelpers(), os.RemoveAll(kitState))
		},
	}
	s.checks = append(s.checks, kitNetwork()...)
	s.checks = append(s.checks, kitPorts()...)
	s.checks = append(s.checks, kitPolicy("rootlesskit"))
	return s
}

// kit is the command line up to what is to be run.
func (m *machine) kit(flags ...string) []string {
	line := m.kitNet
	if line == nil {
		line = []string{"rootlesskit", "--net=slirp4netns", "--slirp4netns-binary=" + m.helper}
	}
	return slices.Concat(line, []string{"--state-dir=" + kitState, "--copy-up=/etc"}, flags)
}

// probePath is the probe on the host's file system, which RootlessKit shares.
const probePath = binDir + "/" + probeName

func (m *machine) kitRun(ctx context.Context, flags []string, argv ...string) (string, error) {
	return m.do(ctx, append(m.kit(flags...), argv...)...)
}

// kitServe runs the probe's server under RootlessKit while use works with it.
func (m *machine) kitServe(ctx context.Context, flags []string, use func() error) error {
	s, err := m.start(nil, append(m.kit(flags...), probePath, "serve", "80")...)
	if err != nil {
		return err
	}
	err = use()
	if dead := s.alive(); dead != nil {
		err = errors.Join(err, dead)
	} else if err != nil {
		err = fmt.Errorf("%w\n%s", err, s.out.String())
	}
	return errors.Join(err, s.end(ctx, unix.SIGTERM))
}

func kitNetwork() []check {
	loopback := net.JoinHostPort("10.0.2.2", loopbackPort)
	noLoopback := []string{"--disable-host-loopback"}
	return []check{{
		name: "rootlesskit/tcp-out", says: "4 MiB each way with a server outside",
		run: func(ctx context.Context, m *machine) error {
			out, err := m.kitRun(ctx, noLoopback, probePath, "tcp", outside(), "4194304")
			return first(err, peerIs(out, hostIPv4))
		},
	}, {
		name: "rootlesskit/udp-out", says: "datagrams of 8000 bytes with a server outside",
		run: func(ctx context.Context, m *machine) error {
			out, err := m.kitRun(ctx, noLoopback, probePath, "udp", outside(), "8000")
			return first(err, peerIs(out, hostIPv4))
		},
	}, {
		name: "rootlesskit/dns", says: "resolv.conf names the gateway's resolver, UDP and TCP, A and AAAA",
		run: func(ctx context.Context, m *machine) error {
			out, err := m.kitRun(ctx, noLoopback, "sh", "-c", "probe() { "+probePath+` "$@"; }; `+dnsScript("10.0.2.3"))
			return first(err, dnsAnswers(out, "10.0.2.3"))
		},
	}, {
		name: "rootlesskit/ping", says: "gateway and outside answer echo requests",
		run: func(ctx context.Context, m *machine) error {
			_, err := m.kitRun(ctx, noLoopback, "sh", "-c", "ping -c1 -W3 10.0.2.2 && ping -c1 -W3 "+outsideIPv4)
			return err
		},
	}, {
		name: "rootlesskit/ipv6", says: "--ipv6 gives an address by router advertisement and TCP over it",
		run: func(ctx context.Context, m *machine) error {
			out, err := m.kitRun(ctx, []string{"--ipv6"}, "sh", "-c",
				"for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do ip -6 addr show dev tap0 scope global -tentative | grep -q fd00: && break; sleep 0.2; done; "+probePath+" tcp "+outside6())
			return first(err, peerIs(lastLine(out), hostIPv6))
		},
	}, {
		name: "rootlesskit/mtu", says: "65520 unless --mtu=1400 says otherwise, and a transfer at 1400",
		run: func(ctx context.Context, m *machine) error {
			out, err := m.kitRun(ctx, nil, "sh", "-c", "ip link show dev tap0")
			if err := first(err, has(out, "mtu 65520")); err != nil {
				return err
			}
			out, err = m.kitRun(ctx, []string{"--mtu=1400"}, "sh", "-c", "ip link show dev tap0; "+probePath+" tcp "+outside()+" 1048576")
			return first(err, has(out, "mtu 1400"), peerIs(lastLine(out), hostIPv4))
		},
	}, {
		name: "rootlesskit/cidr", says: "--cidr=10.41.0.0/16, as k3s has it, moves guest, gateway and resolver",
		run: func(ctx context.Context, m *machine) error {
			out, err := m.kitRun(ctx, []string{"--cidr=10.41.0.0/16"}, "sh", "-c",
				"ip addr show dev tap0 >&2; ip addr show dev tap0 | grep -q 'inet 10.41.0.100/16' && ping -c1 -W3 10.41.0.2 >&2 && probe() { "+probePath+` "$@"; }; `+dnsScript("10.41.0.3")+"; probe tcp "+outside())
			return first(err, has(out, "first 10.41.0.3\n"+outsideIPv4), peerIs(lastLine(out), hostIPv4))
		},
	}, {
		name: "rootlesskit/ifname", says: "--ifname names the TAP",
		run: func(ctx context.Context, m *machine) error {
			out, err := m.kitRun(ctx, []string{"--ifname=net7"}, "sh", "-c", "ip link show dev net7 >&2 && "+probePath+" tcp "+outside())
			return first(err, peerIs(out, hostIPv4))
		},
	}, {
		name: "rootlesskit/host-loopback-off", says: "--disable-host-loopback closes the host's loopback",
		run: func(ctx context.Context, m *machine) error {
			_, err := m.kitRun(ctx, noLoopback, probePath, "tcp", loopback)
			return failsWith(err, "unreachable", "refused")
		},
	}, {
		name: "rootlesskit/host-loopback-on", says: "without it 10.0.2.2 leads there",
		run: kitLoopback,
	}, {
		name: "rootlesskit/sandbox-auto", says: "sandbox and seccomp on auto, as Docker asks for them",
		run: func(ctx context.Context, m *machine) error {
			out, err := m.kitRun(ctx, []string{"--slirp4netns-sandbox=auto", "--slirp4netns-seccomp=auto"}, probePath, "tcp", outside())
			return first(err, peerIs(out, hostIPv4))
		},
	}, {
		name: "rootlesskit/sandbox-forced", says: "sandbox and seccomp demanded",
		needs: []need{option("--enable-sandbox"), option("--enable-seccomp")},
		run: func(ctx context.Context, m *machine) error {
			out, err := m.kitRun(ctx, []string{"--slirp4netns-sandbox=true", "--slirp4netns-seccomp=true"}, probePath, "tcp", outside())
			return first(err, peerIs(out, hostIPv4))
		},
	}, {
		name: "rootlesskit/killed", says: "the helper ends when RootlessKit is killed",
		run: kitKilled,
	}}
}

// kitPorts: both port drivers.
func kitPorts() []check {
	var checks []check
	for _, driver := range []string{"builtin", "slirp4netns"} {
		var needs []need
		if driver == "slirp4netns" {
			needs = []need{option("--api-socket")}
		}
		add := func(what, says string, run func(context.Context, *machine, string) error, more ...need) {
			checks = append(checks, check{
				name: "rootlesskit/port-" + driver + "-" + what, says: says,
				needs: append(append([]need{}, needs...), more...),
				run:   func(ctx context.Context, m *machine) error { return run(ctx, m, "--port-driver="+driver) },
			})
		}
		add("tcp", "a TCP port reached from outside and from the host", kitTCP)
		add("udp", "a UDP port reached from outside", kitUDP)
		add("ctl", "ports added, listed and removed while it runs, a connection living on", kitCtl)
		add("again", "the same port three times in a row", kitAgain)
		if driver == "slirp4netns" {
			add("source", "the server sees the client's address and port, TCP and UDP", kitSource)
			add("udp-loopback", "a UDP port reached from the host's loopback", kitUDPLoopback, beyond)
		} else {
			add("udp-loopback", "a UDP port reached from the host's loopback", kitUDPLoopback)
		}
	}
	return checks
}

func kitLoopback(ctx context.Context, m *machine) error {
	out, err := m.kitRun(ctx, nil, probePath, "tcp", net.JoinHostPort("10.0.2.2", loopbackPort))
	return first(err, peerIs(out, "127.0.0.1"))
}

func kitKilled(ctx context.Context, m *machine) error {
	s, err := m.start(nil, append(m.kit(), probePath, "serve", "80")...)
	if err != nil {
		return err
	}
	err = m.helperCount(1)
	return errors.Join(err, s.end(ctx, unix.SIGKILL), m.helperCount(0))
}

func kitTCP(ctx context.Context, m *machine, driver string) error {
	return m.kitServe(ctx, []string{driver, "--publish=0.0.0.0:8080:80/tcp"}, func() error {
		return reachBoth(ctx, m, "tcp", "8080", 1<<20)
	})
}

func kitUDP(ctx context.Context, m *machine, driver string) error {
	return m.kitServe(ctx, []string{driver, "--publish=0.0.0.0:8080:80/udp"}, func() error {
		_, err := reach(ctx, m.net.fromOutside, "udp", net.JoinHostPort(hostIPv4, "8080"), 1000)
		return err
	})
}

// kitUDPLoopback has host loopback off, as Docker asks for it; slirp4netns
// drops the answers then.
func kitUDPLoopback(ctx context.Context, m *machine, driver string) error {
	return m.kitServe(ctx, []string{driver, "--disable-host-loopback", "--publish=0.0.0.0:8080:80/udp"}, func() error {
		_, err := reach(ctx, m.net.fromHost, "udp", "127.0.0.1:8080", 1000)
		return err
	})
}

func kitAgain(ctx context.Context, m *machine, driver string) error {
	for range 3 {
		if err := kitTCP(ctx, m, driver); err != nil {
			return err
		}
	}
	return nil
}

func kitCtl(ctx context.Context, m *machine, driver string) error {
	ctl := func(args ...string) (string, error) {
		return m.do(ctx, append([]string{"rootlessctl", "--socket=" + kitState + "/api.sock"}, args...)...)
	}
	return m.kitServe(ctx, []string{driver}, func() error {
		if err := harness.Eventually(waitTime, func() error {
			_, err := ctl("add-ports", "0.0.0.0:8080:80/tcp")
			return err
		}); err != nil {
			return err
		}
		if _, err := reach(ctx, m.net.fromOutside, "tcp", net.JoinHostPort(hostIPv4, "8080"), 1000); err != nil {
			return err
		}
		out, err := ctl("list-ports")
		if err := first(err, has(out, "8080")); err != nil {
			return err
		}
		live, err := m.net.fromOutside(ctx, "tcp", net.JoinHostPort(hostIPv4, "8080"))
		if err != nil {
			return err
		}
		defer live.Close()
		line := make([]byte, len(peerPrefix))
		if _, err := live.Read(line); err != nil {
			return err
		}
		if out, err := ctl("remove-ports", "1"); err != nil {
			return fmt.Errorf("%w\n%s", err, out)
		}
		if err := harness.Eventually(waitTime, func() error {
			return closed(ctx, m.net.fromOutside, net.JoinHostPort(hostIPv4, "8080"))
		}); err != nil {
			return fmt.Errorf("removed port: %w", err)
		}
		c, ok := live.(*net.TCPConn)
		if !ok {
			return fmt.Errorf("connection is a %T", live)
		}
		if driver == "--port-driver=builtin" {
			return nil // what becomes of its connections is RootlessKit's affair
		}
		if _, err := c.Write([]byte("still there\n")); err != nil {
			return err
		}
		if err := c.CloseWrite(); err != nil {
			return err
		}
		var echoed strings.Builder
		if _, err := c.WriteTo(&echoed); err != nil {
			return err
		}
		return has(echoed.String(), "still there")
	})
}

func kitSource(ctx context.Context, m *machine, driver string) error {
	flags := []string{driver, "--publish=0.0.0.0:8080:80/tcp", "--publish=0.0.0.0:8080:80/udp"}
	return m.kitServe(ctx, flags, func() error {
		for _, network := range []string{"tcp", "udp"} {
			x, err := reach(ctx, m.net.fromOutside, network, net.JoinHostPort(hostIPv4, "8080"), 1000)
			if err != nil {
				return err
			}
			if x.peer != x.local {
				return fmt.Errorf("%s client %s is seen as %s", network, x.local, x.peer)
			}
		}
		return nil
	})
}
