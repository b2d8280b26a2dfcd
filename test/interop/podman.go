package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"epiphyte/test/harness"
)

// podmanWorks: whether containers run here is asked without a network.
func podmanWorks(ctx context.Context, m *machine) error {
	if err := m.importImage(ctx, nil, "podman", "import", "-q"); err != nil {
		return err
	}
	_, err := m.do(ctx, "podman", "run", "--rm", "--network=none", image, "true")
	return err
}

// podmanNeeds are common to all suites of podman.
func podmanNeeds() []need {
	return []need{
		program("podman", "newuidmap", "crun"), staticBusybox,
		works("a podman container without network", podmanWorks),
	}
}

// podmanSuite: one helper for each container.
func podmanSuite() suite {
	s := suite{needs: podmanNeeds(), clean: podmanClean}
	s.checks = append(s.checks, podmanNetwork()...)
	s.checks = append(s.checks, podmanOptions()...)
	s.checks = append(s.checks, podmanLife()...)
	s.checks = append(s.checks, podmanPorts()...)
	return s
}

// podmanClean removes containers and looks for what their helpers left.
func podmanClean(ctx context.Context, m *machine) error {
	_, err := m.do(ctx, "podman", "rm", "--all", "--force", "--time=0")
	return errors.Join(err, m.noHelpers())
}

// podmanRun runs one command in a container of its own and gives its output.
// options come after "slirp4netns:".
func podmanRun(ctx context.Context, m *machine, options string, argv ...string) (string, error) {
	return m.do(ctx, append([]string{"podman", "run", "--rm", "--network=" + slirpMode(options), image}, argv...)...)
}

func slirpMode(options string) string {
	if options == "" {
		return "slirp4netns"
	}
	return "slirp4netns:" + options
}

// podmanServe starts a container that serves port 80, with flags of podman run.
func podmanServe(ctx context.Context, m *machine, name string, flags ...string) error {
	argv := append([]string{"podman", "run", "--detach", "--name=" + name, "--stop-signal=TERM"}, flags...)
	_, err := m.do(ctx, append(argv, image, "probe", "serve", "80")...)
	return err
}

// outside is the server's address, IPv4.
func outside() string { return net.JoinHostPort(outsideIPv4, serverPort) }

// outside6 is the server's address, IPv6.
func outside6() string { return net.JoinHostPort(outsideIPv6, serverPort) }

// peerIs holds the address that a server saw against what it should be.
func peerIs(out, want string) error {
	peer, err := peerOf(out)
	if err == nil && host(peer) != want {
		err = fmt.Errorf("the server saw %s, want %s", host(peer), want)
	}
	return err
}

// has says which of several texts is missing in an output.
func has(out string, texts ...string) error {
	for _, t := range texts {
		if !strings.Contains(out, t) {
			return fmt.Errorf("no %q in:\n%s", t, out)
		}
	}
	return nil
}

// failsWith says whether a command failed, and with what words.
func failsWith(err error, texts ...string) error {
	if err == nil {
		return errors.New("it worked")
	}
	for _, t := range texts {
		if strings.Contains(strings.ToLower(err.Error()), t) {
			return nil
		}
	}
	return fmt.Errorf("another failure than %q: %w", texts, err)
}

// podmanNetwork: what a container's user does first.
func podmanNetwork() []check {
	return []check{{
		name: "podman/info", says: "podman info shows the helper and its version",
		run: func(ctx context.Context, m *machine) error {
			out, err := m.do(ctx, "podman", "info", "--format", "{{.Host.Slirp4NetNS.Executable}}\n{{.Host.Slirp4NetNS.Version}}")
			return errors.Join(err, has(out, m.helper, m.version))
		},
	}, {
		name: "podman/tcp-out", says: "4 MiB each way with a server outside",
		run: func(ctx context.Context, m *machine) error {
			out, err := podmanRun(ctx, m, "", "probe", "tcp", outside(), "4194304")
			return errors.Join(err, peerIs(out, hostIPv4))
		},
	}, {
		name: "podman/tcp-refused", says: "a closed port outside is refused, not silent",
		run: func(ctx context.Context, m *machine) error {
			_, err := podmanRun(ctx, m, "", "probe", "tcp", net.JoinHostPort(outsideIPv4, closedPort))
			return failsWith(err, "connection refused")
		},
	}, {
		name: "podman/udp-out", says: "datagrams of 1 and 8000 bytes with a server outside",
		run: func(ctx context.Context, m *machine) error {
			out, err := podmanRun(ctx, m, "", "sh", "-c", "probe udp "+outside()+" 8000 && probe udp "+outside()+" 1 >/dev/null")
			return errors.Join(err, peerIs(out, hostIPv4))
		},
	}, {
		name: "podman/dns", says: "resolv.conf names the gateway's resolver first, UDP and TCP, A and AAAA",
		run: func(ctx context.Context, m *machine) error {
			out, err := podmanRun(ctx, m, "", "sh", "-c", dnsScript("10.0.2.3"))
			return errors.Join(err, dnsAnswers(out, "10.0.2.3"))
		},
	}, {
		name: "podman/ping-gateway", says: "the gateway answers echo requests",
		run: func(ctx context.Context, m *machine) error {
			_, err := podmanRun(ctx, m, "", "ping", "-c1", "-W3", "10.0.2.2")
			return err
		},
	}, {
		name: "podman/ping-out", says: "a host outside answers echo requests",
		run: func(ctx context.Context, m *machine) error {
			_, err := podmanRun(ctx, m, "", "ping", "-c1", "-W3", outsideIPv4)
			return err
		},
	}, {
		name: "podman/ipv6", says: "the container's first command has an IPv6 address, and TCP and UDP work over it",
		run: func(ctx context.Context, m *machine) error {
			out, err := podmanRun(ctx, m, "", "sh", "-c", "ip -6 addr show dev tap0; probe udp "+outside6()+" >/dev/null && probe tcp "+outside6())
			if err != nil {
				return err
			}
			return errors.Join(has(out, "inet6 fd00::"), peerIs(lastLine(out), hostIPv6))
		},
	}, {
		name: "podman/two-at-once", says: "two containers with the same addresses do not disturb each other",
		run: podmanTwo,
	}}
}

// dnsScript prints the first nameserver, then what it answers each way, then
// what the resolver of a program makes of it.
func dnsScript(server string) string {
	s := net.JoinHostPort(server, "53")
	return "cat /etc/resolv.conf | while read -r _ a; do echo first $a; break; done" +
		"; probe dns " + s + " udp " + serverName + " A" +
		" && probe dns " + s + " tcp " + serverName + " AAAA" +
		" && probe lookup " + serverName
}

func dnsAnswers(out, server string) error {
	lines := strings.Fields(out)
	want := []string{"first", server, outsideIPv4, outsideIPv6}
	for i, w := range want {
		if i >= len(lines) || lines[i] != w {
			return fmt.Errorf("got %q, want it to begin with %q", lines, want)
		}
	}
	return has(strings.Join(lines[len(want):], " "), outsideIPv4, outsideIPv6)
}

func lastLine(s string) string { return s[strings.LastIndexByte(s, '\n')+1:] }

// podmanTwo: both have 10.0.2.100 and are different hosts none the less.
func podmanTwo(ctx context.Context, m *machine) error {
	for _, name := range []string{"one", "two"} {
		if err := podmanServe(ctx, m, name, "--network=slirp4netns"); err != nil {
			return err
		}
	}
	if err := m.helperCount(2); err != nil {
		return err
	}
	results := make(chan error, 2)
	for _, name := range []string{"one", "two"} {
		go func() {
			out, err := m.do(ctx, "podman", "exec", name, "probe", "tcp", outside(), "1048576")
			results <- errors.Join(err, peerIs(out, hostIPv4))
		}()
	}
	return errors.Join(<-results, <-results)
}

// podmanOptions: the options of --network slirp4netns:.
func podmanOptions() []check {
	loopback := net.JoinHostPort("10.0.2.2", loopbackPort)
	return []check{{
		name: "podman/mtu", says: "65520 unless mtu=1400 says otherwise, and a transfer at 1400",
		run: func(ctx context.Context, m *machine) error {
			const show = "cat /sys/class/net/tap0/mtu"
			out, err := podmanRun(ctx, m, "", "sh", "-c", show)
			if err != nil || out != "65520" {
				return errors.Join(err, fmt.Errorf("MTU is %q", out))
			}
			out, err = podmanRun(ctx, m, "mtu=1400", "sh", "-c", show+"; probe tcp "+outside()+" 1048576")
			return errors.Join(err, has(out, "1400\npeer "+hostIPv4))
		},
	}, {
		name: "podman/cidr", says: "cidr=10.41.0.0/16 moves guest, gateway and resolver",
		run: func(ctx context.Context, m *machine) error {
			out, err := podmanRun(ctx, m, "cidr=10.41.0.0/16", "sh", "-c",
				"ip addr show dev tap0 >&2; ip addr show dev tap0 | { while read -r k v _; do [ $k = inet ] && [ $v = 10.41.0.100/16 ] && exit 0; done; exit 1; }"+
					" && ping -c1 -W3 10.41.0.2 >&2 && "+dnsScript("10.41.0.3")+" && probe tcp "+outside())
			return errors.Join(err, has(out, "first 10.41.0.3\n"+outsideIPv4), peerIs(lastLine(out), hostIPv4))
		},
	}, {
		name: "podman/ipv6-off", says: "enable_ipv6=false leaves no global IPv6 address",
		run: func(ctx context.Context, m *machine) error {
			out, err := podmanRun(ctx, m, "enable_ipv6=false", "sh", "-c", "ip -6 addr; probe tcp "+outside())
			if err == nil && strings.Contains(out, "fd00:") {
				err = errors.New("an address of fd00::/64 is there:\n" + out)
			}
			return errors.Join(err, peerIs(lastLine(out), hostIPv4))
		},
	}, {
		name: "podman/host-loopback-off", says: "the host's loopback is unreachable by default, TCP, UDP, IPv4 and IPv6",
		run: func(ctx context.Context, m *machine) error {
			for _, try := range [][2]string{{"tcp", loopback}, {"udp", loopback}, {"tcp", net.JoinHostPort("fd00::2", loopbackPort)}} {
				_, err := podmanRun(ctx, m, "", "probe", try[0], try[1])
				// Silence is an answer for a datagram, not for a connection.
				words := []string{"unreachable", "refused"}
				if try[0] == "udp" {
					words = append(words, "no answer")
				}
				if err := failsWith(err, words...); err != nil {
					return fmt.Errorf("%s: %w", try[0], err)
				}
			}
			return nil
		},
	}, {
		name: "podman/host-loopback-on", says: "allow_host_loopback=true leads 10.0.2.2 and fd00::2 there",
		run: func(ctx context.Context, m *machine) error {
			out, err := podmanRun(ctx, m, "allow_host_loopback=true", "sh", "-c",
				"probe tcp "+loopback+" && probe udp "+loopback+" && probe tcp "+net.JoinHostPort("fd00::2", loopbackPort))
			return errors.Join(err, has(out, "peer 127.0.0.1:", "peer [::1]:"))
		},
	}, {
		name: "podman/outbound-addr", says: "outbound_addr by address and by interface is what a server sees",
		needs: []need{option("--outbound-addr")},
		run: func(ctx context.Context, m *machine) error {
			out, err := podmanRun(ctx, m, "outbound_addr="+hostIPv4b, "probe", "tcp", outside())
			if err := errors.Join(err, peerIs(out, hostIPv4b)); err != nil {
				return err
			}
			out, err = podmanRun(ctx, m, "outbound_addr="+sideLink, "probe", "tcp", outside())
			return errors.Join(err, peerIs(out, sideIPv4))
		},
	}, {
		name: "podman/outbound-addr6", says: "outbound_addr6 is what a server sees",
		needs: []need{option("--outbound-addr6")},
		run: func(ctx context.Context, m *machine) error {
			out, err := podmanRun(ctx, m, "outbound_addr6="+hostIPv6b, "probe", "tcp", outside6())
			return errors.Join(err, peerIs(out, hostIPv6b))
		},
	}}
}

// podmanLife: starts and stops.
func podmanLife() []check {
	return []check{{
		name: "podman/keep-id", says: "--userns=keep-id, where the namespace is made before the helper is asked by PID",
		run: func(ctx context.Context, m *machine) error {
			out, err := m.do(ctx, "podman", "run", "--rm", "--userns=keep-id", "--network=slirp4netns", image, "probe", "tcp", outside())
			return errors.Join(err, peerIs(out, hostIPv4))
		},
	}, {
		name: "podman/build", says: "a RUN step of podman build has the network",
		run: func(ctx context.Context, m *machine) error {
			file := confDir + "/Containerfile"
			if err := os.WriteFile(file, []byte("FROM localhost/"+image+"\nRUN probe tcp "+outside()+"\n"), 0o644); err != nil {
				return err
			}
			env, err := m.pathWithHelper() // podman's builder knows no network_cmd_path
			if err != nil {
				return err
			}
			out, err := output(m.command(ctx, env, "podman", "build", "--no-cache", "--file="+file, homeDir+"/tmp"))
			return errors.Join(err, has(out, "peer "+hostIPv4))
		},
	}, {
		name: "podman/restart", says: "after podman restart there is one helper, and the network",
		run: func(ctx context.Context, m *machine) error {
			if err := podmanServe(ctx, m, "one", "--network=slirp4netns"); err != nil {
				return err
			}
			for range 3 {
				if _, err := m.do(ctx, "podman", "restart", "--time=1", "one"); err != nil {
					return err
				}
				out, err := m.do(ctx, "podman", "exec", "one", "probe", "tcp", outside())
				if err := errors.Join(err, peerIs(out, hostIPv4), m.helperCount(1)); err != nil {
					return err
				}
			}
			return nil
		},
	}, {
		name: "podman/stop-leaves-nothing", says: "after podman stop no helper, network namespace or port is left",
		run: func(ctx context.Context, m *machine) error {
			if err := podmanServe(ctx, m, "one", "--network=slirp4netns", "--publish=8080:80"); err != nil {
				return err
			}
			if err := m.helperCount(1); err != nil {
				return err
			}
			if _, err := m.do(ctx, "podman", "stop", "--time=1", "one"); err != nil {
				return err
			}
			return nothingLeft(m)
		},
	}, {
		name: "podman/crash-leaves-nothing", says: "nor when conmon and the container are killed",
		run: func(ctx context.Context, m *machine) error {
			if err := podmanServe(ctx, m, "one", "--network=slirp4netns"); err != nil {
				return err
			}
			out, err := m.do(ctx, "podman", "inspect", "--format", "{{.State.ConmonPid}} {{.State.Pid}}", "one")
			if err != nil {
				return err
			}
			var conmon, pid int
			if _, err := fmt.Sscan(out, &conmon, &pid); err != nil {
				return err
			}
			return errors.Join(unix.Kill(conmon, unix.SIGKILL), unix.Kill(pid, unix.SIGKILL), m.helperCount(0))
		},
	}}
}

// nothingLeft looks for what a stopped container's network might leave.
func nothingLeft(m *machine) error {
	return errors.Join(m.helperCount(0), harness.Eventually(waitTime, func() error {
		left, err := filepath.Glob(runtimeDir + "/netns/netns-*")
		if err == nil && len(left) > 0 {
			err = fmt.Errorf("namespaces left: %v", left)
		}
		return errors.Join(err, portsFree())
	}))
}

// portsFree says whether anything listens on the host that is not ours.
func portsFree() error {
	for _, proto := range []string{"tcp", "udp"} {
		b, err := os.ReadFile("/proc/thread-self/net/" + proto)
		if err != nil {
			return err
		}
		if strings.Contains(string(b), ":1F90 00000000:0000") { // 8080
			return fmt.Errorf("%s port 8080 is still taken", proto)
		}
	}
	return nil
}
