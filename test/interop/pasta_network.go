package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
)

// rawSockets are what busybox has for ping, and podman has ceased to give.
const rawSockets = "--cap-add=NET_RAW"

// pastaNetwork: what a container's user does first.
func pastaNetwork() []check {
	return []check{{
		name: "pasta/info", says: "podman info shows the helper and its version",
		run: func(ctx context.Context, m *machine) error {
			version, err := m.do(ctx, pastaDir+"/"+pastaName, "--version")
			if err != nil {
				return err
			}
			line, _, _ := strings.Cut(version, "\n")
			out, err := m.do(ctx, "podman", "info", "--format", "{{.Host.Pasta.Executable}}\n{{.Host.Pasta.Version}}")
			return first(err, has(out, pastaDir+"/"+pastaName, line))
		},
	}, pastaSays("address", "the container has the host's addresses, and podman lists them in /etc/hosts", "",
		"ip addr; cat /etc/hosts", "inet "+hostIPv4+"/24", "inet6 "+hostIPv6+"/64", "\n"+hostIPv4+"\t"),
		pastaSays("routes", "and the host's default routes", "",
			"ip route; ip -6 route", "default via "+outsideIPv4, "default via "+outsideIPv6),
		pastaSays("link", "on an interface named like the host's, with an MTU of 65520, and lo is up", "",
			"ip link show dev "+hostLink+"; ip link show dev lo", "mtu 65520", "LOOPBACK,UP"),
		pastaSays("tcp-out", "4 MiB each way with a server outside, IPv4 and IPv6", "",
			"probe tcp "+outside()+" 4194304 && probe tcp "+outside6()+" 4194304", peer(hostIPv4), peer(hostIPv6)),
		pastaSays("udp-out", "datagrams of 8000 bytes with a server outside, IPv4 and IPv6", "",
			"probe udp "+outside()+" 8000 && probe udp "+outside6()+" 8000", peer(hostIPv4), peer(hostIPv6)),
		{
			name: "pasta/ping", says: "hosts outside answer echo requests",
			run: func(ctx context.Context, m *machine) error {
				_, err := m.do(ctx, "podman", "run", "--rm", rawSockets, image, "sh", "-c", "ping -c1 -W3 "+outsideIPv4+" && ping -c1 -W3 "+outsideIPv6)
				return err
			},
		}, {
			name: "pasta/tcp-refused", says: "a closed port outside is refused, not silent",
			run: func(ctx context.Context, m *machine) error {
				_, err := pastaRun(ctx, m, "", "probe", "tcp", net.JoinHostPort(outsideIPv4, closedPort))
				return failsWith(err, "connection refused")
			},
		}, {
			name: "pasta/dns", says: "resolv.conf names the forwarder first, UDP and TCP, A and AAAA",
			run: func(ctx context.Context, m *machine) error {
				out, err := pastaRun(ctx, m, "", "sh", "-c", dnsScript(pastaDNS))
				return first(err, dnsAnswers(out, pastaDNS))
			},
		},
		pastaSays("host-internal", "host.containers.internal leads to a server on the host's own address", "",
			"cat /etc/hosts; probe tcp host.containers.internal:"+hostPort+" 100000 && probe udp host.containers.internal:"+hostPort,
			pastaHost+"\thost.containers.internal", peer(hostIPv4)),
		{
			name: "pasta/host-loopback-off", says: "the host's loopback is unreachable by default",
			run: func(ctx context.Context, m *machine) error {
				for _, addr := range []string{pastaHost, outsideIPv4, "127.0.0.1", outsideIPv6} {
					_, err := pastaRun(ctx, m, "", "probe", "tcp", net.JoinHostPort(addr, loopbackPort))
					if err := failsWith(err, "refused", "unreachable"); err != nil {
						return fmt.Errorf("%s: %w", addr, err)
					}
				}
				return nil
			},
		}, {
			name: "pasta/many-at-once", says: "eight containers at once do not disturb each other",
			run: pastaMany,
		}, {
			name: "pasta/pod", says: "containers of a pod share one helper, its ports, and their loopback",
			run: pastaPod,
		}}
}

// pastaMany: all have the host's address and are different hosts none the less.
func pastaMany(ctx context.Context, m *machine) error {
	const containers = 8
	results := make(chan error, containers)
	for i := range containers {
		go func() {
			name, port := fmt.Sprintf("many%d", i), fmt.Sprint(8090+i)
			if err := podmanServe(ctx, m, name, "--publish="+port+":80"); err != nil {
				results <- err
				return
			}
			out, err := m.do(ctx, "podman", "exec", name, "probe", "tcp", outside(), "1048576")
			results <- first(err, peerIs(out, hostIPv4), reachBoth(ctx, m, "tcp", port, 100000))
		}()
	}
	var errs []error
	for range containers {
		errs = append(errs, <-results)
	}
	return errors.Join(append(errs, m.helperCount(containers))...)
}

func pastaPod(ctx context.Context, m *machine) error {
	if _, err := m.do(ctx, "podman", "pod", "create", "--name=pod", "--publish=8080:80",
		"--infra-image=localhost/"+image, "--infra-command=probe serve 81"); err != nil {
		return err
	}
	if err := podmanServe(ctx, m, "one", "--pod=pod"); err != nil {
		return err
	}
	if err := errors.Join(reachBoth(ctx, m, "tcp", "8080", 100000), m.helperCount(1)); err != nil {
		return err
	}
	out, err := m.do(ctx, "podman", "run", "--rm", "--pod=pod", image, "sh", "-c", "probe tcp 127.0.0.1:80 && probe tcp "+outside())
	if err := first(err, has(out, peer("127.0.0.1"), peer(hostIPv4))); err != nil {
		return err
	}
	if _, err := m.do(ctx, "podman", "pod", "restart", "pod"); err != nil {
		return err
	}
	return errors.Join(reachBoth(ctx, m, "tcp", "8080", 100000), m.helperCount(1))
}
