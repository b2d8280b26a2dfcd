package main

import (
	"context"
	"fmt"
	"net"
)

const bridge = "--network=bridge0net"

// bridgeSuite: containers on a network of podman's own making, for which one
// helper serves a namespace that they all are behind.
func bridgeSuite() suite {
	return suite{
		needs: append(podmanNeeds(),
			program("iptables"),
			works("podman's bridge in a user namespace", bridgeWorks)),
		clean: podmanClean,
		checks: []check{{
			name: "bridge/tcp-out", says: "4 MiB each way with a server outside",
			run: func(ctx context.Context, m *machine) error {
				out, err := bridgeRun(ctx, m, "probe", "tcp", outside(), "4194304")
				return first(err, peerIs(out, hostIPv4))
			},
		}, {
			name: "bridge/udp-out", says: "datagrams of 1 and 1400 bytes with a server outside",
			run: func(ctx context.Context, m *machine) error {
				out, err := bridgeRun(ctx, m, "sh", "-c", "probe udp "+outside()+" 1 >&2; probe udp "+outside()+" 1400")
				return first(err, peerIs(out, hostIPv4))
			},
		}, {
			name: "bridge/dns", says: "the network's resolver forwards through the helper's",
			run: func(ctx context.Context, m *machine) error {
				out, err := bridgeRun(ctx, m, "sh", "-c", "probe dns 10.0.2.3:53 udp "+serverName+" A && probe lookup "+serverName)
				return first(err, has(out, outsideIPv4, outsideIPv6))
			},
		}, {
			name: "bridge/ping", says: "gateway and outside answer echo requests across the bridge",
			run: func(ctx context.Context, m *machine) error {
				_, err := bridgeRun(ctx, m, "sh", "-c", "ping -c1 -W3 10.0.2.2 && ping -c1 -W3 "+outsideIPv4)
				return err
			},
		}, {
			name: "bridge/host-loopback-off", says: "the host's loopback is unreachable",
			run: func(ctx context.Context, m *machine) error {
				_, err := bridgeRun(ctx, m, "probe", "tcp", net.JoinHostPort("10.0.2.2", loopbackPort))
				return failsWith(err, "unreachable", "refused")
			},
		}, {
			name: "bridge/publish-tcp", says: "a published TCP port reached from outside and from the host",
			run: func(ctx context.Context, m *machine) error {
				if err := podmanServe(ctx, m, "one", bridge, "--publish=8080:80"); err != nil {
					return err
				}
				return reachBoth(ctx, m, "tcp", "8080", 1<<20)
			},
		}, {
			name: "bridge/publish-udp", says: "a published UDP port reached from outside and from the host",
			run: func(ctx context.Context, m *machine) error {
				if err := podmanServe(ctx, m, "one", bridge, "--publish=8080:80/udp"); err != nil {
					return err
				}
				return reachBoth(ctx, m, "udp", "8080", 1000)
			},
		}, {
			name: "bridge/two-share-one", says: "two containers reach each other and share one helper, which lives until the last stops",
			run: bridgeTwo,
		}, {
			name: "bridge/restart", says: "the network is there again after the only container restarts",
			run: func(ctx context.Context, m *machine) error {
				if err := podmanServe(ctx, m, "one", bridge); err != nil {
					return err
				}
				for range 3 {
					if _, err := m.do(ctx, "podman", "restart", "--time=1", "one"); err != nil {
						return err
					}
					out, err := m.do(ctx, "podman", "exec", "one", "probe", "tcp", outside())
					if err := first(err, peerIs(out, hostIPv4), m.helperCount(1)); err != nil {
						return err
					}
				}
				return nil
			},
		}},
	}
}

// bridgeWorks: podman sets NAT rules for the network by iptables, in a
// namespace of the user's.
func bridgeWorks(ctx context.Context, m *machine) error {
	if _, err := m.do(ctx, "podman", "unshare", "unshare", "-n", "iptables", "-t", "nat", "-A", "POSTROUTING",
		"-m", "comment", "--comment", "x", "-j", "MASQUERADE"); err != nil {
		return err
	}
	if _, err := m.do(ctx, "podman", "unshare", "unshare", "-n", "ip", "link", "add", "br0", "type", "bridge"); err != nil {
		return err
	}
	_, err := m.do(ctx, "podman", "network", "create", "bridge0net")
	return err
}

func bridgeRun(ctx context.Context, m *machine, argv ...string) (string, error) {
	return m.do(ctx, append([]string{"podman", "run", "--rm", bridge, image}, argv...)...)
}

func bridgeTwo(ctx context.Context, m *machine) error {
	for _, name := range []string{"one", "two"} {
		if err := podmanServe(ctx, m, name, bridge); err != nil {
			return err
		}
	}
	if err := m.helperCount(1); err != nil {
		return err
	}
	addr, err := m.do(ctx, "podman", "inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", "two")
	if err != nil {
		return err
	}
	if _, err := m.do(ctx, "podman", "exec", "one", "probe", "tcp", net.JoinHostPort(addr, "80")); err != nil {
		return fmt.Errorf("from one to the other: %w", err)
	}
	if _, err := m.do(ctx, "podman", "rm", "--force", "--time=0", "two"); err != nil {
		return err
	}
	out, err := m.do(ctx, "podman", "exec", "one", "probe", "tcp", outside())
	if err := first(err, peerIs(out, hostIPv4)); err != nil {
		return fmt.Errorf("after one has stopped: %w", err)
	}
	if _, err := m.do(ctx, "podman", "rm", "--force", "--time=0", "one"); err != nil {
		return err
	}
	return m.helperCount(0)
}
