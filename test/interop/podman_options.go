package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
)

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
			return first(err, has(out, "1400\npeer "+hostIPv4))
		},
	}, {
		name: "podman/cidr", says: "cidr=10.41.0.0/16 moves guest, gateway and resolver",
		run: func(ctx context.Context, m *machine) error {
			out, err := podmanRun(ctx, m, "cidr=10.41.0.0/16", "sh", "-c",
				"ip addr show dev tap0 >&2; ip addr show dev tap0 | { while read -r k v _; do [ $k = inet ] && [ $v = 10.41.0.100/16 ] && exit 0; done; exit 1; }"+
					" && ping -c1 -W3 10.41.0.2 >&2 && "+dnsScript("10.41.0.3")+" && probe tcp "+outside())
			return first(err, has(out, "first 10.41.0.3\n"+outsideIPv4), peerIs(lastLine(out), hostIPv4))
		},
	}, {
		name: "podman/ipv6-off", says: "enable_ipv6=false leaves no global IPv6 address",
		run: func(ctx context.Context, m *machine) error {
			out, err := podmanRun(ctx, m, "enable_ipv6=false", "sh", "-c", "ip -6 addr; probe tcp "+outside())
			if err == nil && strings.Contains(out, "fd00:") {
				err = errors.New("an address of fd00::/64 is there:\n" + out)
			}
			return first(err, peerIs(lastLine(out), hostIPv4))
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
			return first(err, has(out, "peer 127.0.0.1:", "peer [::1]:"))
		},
	}, {
		name: "podman/outbound-addr", says: "outbound_addr by address and by interface is what a server sees",
		needs: []need{option("--outbound-addr")},
		run: func(ctx context.Context, m *machine) error {
			out, err := podmanRun(ctx, m, "outbound_addr="+hostIPv4b, "probe", "tcp", outside())
			if err := first(err, peerIs(out, hostIPv4b)); err != nil {
				return err
			}
			out, err = podmanRun(ctx, m, "outbound_addr="+sideLink, "probe", "tcp", outside())
			return first(err, peerIs(out, sideIPv4))
		},
	}, {
		name: "podman/outbound-addr6", says: "outbound_addr6 is what a server sees",
		needs: []need{option("--outbound-addr6")},
		run: func(ctx context.Context, m *machine) error {
			out, err := podmanRun(ctx, m, "outbound_addr6="+hostIPv6b, "probe", "tcp", outside6())
			return first(err, peerIs(out, hostIPv6b))
		},
	}}
}
