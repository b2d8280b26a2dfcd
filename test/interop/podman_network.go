package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
)

// podmanNetwork: what a container's user does first.
func podmanNetwork() []check {
	return []check{{
		name: "podman/info", says: "podman info shows the helper and its version",
		run: func(ctx context.Context, m *machine) error {
			out, err := m.do(ctx, "podman", "info", "--format", "{{.Host.Slirp4NetNS.Executable}}\n{{.Host.Slirp4NetNS.Version}}")
			return first(err, has(out, m.helper, m.version))
		},
	}, {
		name: "podman/tcp-out", says: "4 MiB each way with a server outside",
		run: func(ctx context.Context, m *machine) error {
			out, err := podmanRun(ctx, m, "", "probe", "tcp", outside(), "4194304")
			return first(err, peerIs(out, hostIPv4))
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
			return first(err, peerIs(out, hostIPv4))
		},
	}, {
		name: "podman/dns", says: "resolv.conf names the gateway's resolver first, UDP and TCP, A and AAAA",
		run: func(ctx context.Context, m *machine) error {
			out, err := podmanRun(ctx, m, "", "sh", "-c", dnsScript("10.0.2.3"))
			return first(err, dnsAnswers(out, "10.0.2.3"))
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
			results <- first(err, peerIs(out, hostIPv4))
		}()
	}
	return errors.Join(<-results, <-results)
}
