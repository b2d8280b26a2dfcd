package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// kit3Dir is where the benchmarks keep the newest RootlessKit, the first version whose
// pasta driver knows pesto.
const kit3Dir = "/var/cache/epiphyte-bench/bin"

// pastaKitSuite: RootlessKit starts the helper for a process and leaves it to find the
// ports, forwards them itself, or changes them by pesto.
func pastaKitSuite() suite {
	s := suite{
		needs: []need{
			pasta, program(kit3Dir+"/rootlesskit", "newuidmap", "ip", "ping"),
			works("RootlessKit 3 without network", func(ctx context.Context, m *machine) error {
				if err := m.pastaLinks(); err != nil {
					return err
				}
				_, err := m.do(ctx, kit3Dir+"/rootlesskit", "--state-dir="+kitState, "--copy-up=/etc", "true")
				return err
			}),
		},
		clean: func(_ context.Context, m *machine) error {
			return errors.Join(m.noHelpers(), os.RemoveAll(kitState))
		},
		checks: append(pastaKitChecks(), kitPolicy("pasta-kit")),
	}
	for i, c := range s.checks {
		s.checks[i].run = func(ctx context.Context, m *machine) error {
			own := *m
			own.kitNet = []string{
				kit3Dir + "/rootlesskit", "--net=pasta",
				"--pasta-binary=" + pastaDir + "/" + pastaName, "--pesto-binary=" + pastaDir + "/" + pestoName,
			}
			return c.run(ctx, &own)
		}
	}
	return s
}

func pastaKitChecks() []check {
	noLoopback := []string{"--disable-host-loopback"}
	checks := []check{{
		name: "pasta-kit/out", says: "addresses as asked for, TCP, UDP and ping to the outside",
		run: func(ctx context.Context, m *machine) error {
			out, err := m.kitRun(ctx, noLoopback, "sh", "-c", "ip addr show dev tap0; ip route; ping -c1 -W3 "+outsideIPv4+" && "+
				probePath+" udp "+outside()+" 8000 && "+probePath+" tcp "+outside()+" 4194304")
			return first(err, has(out, "mtu 65520", "inet 10.0.2.100/24", "default via 10.0.2.2"), peerIs(lastLine(out), hostIPv4))
		},
	}, {
		name: "pasta-kit/dns", says: "resolv.conf names the forwarder, UDP and TCP, A and AAAA",
		run: func(ctx context.Context, m *machine) error {
			out, err := m.kitRun(ctx, noLoopback, "sh", "-c", "probe() { "+probePath+` "$@"; }; `+dnsScript("10.0.2.3"))
			return first(err, dnsAnswers(out, "10.0.2.3"))
		},
	}, {
		name: "pasta-kit/ipv6", says: "--ipv6 gives an address at once, and TCP over it",
		run: func(ctx context.Context, m *machine) error {
			out, err := m.kitRun(ctx, []string{"--ipv6"}, "sh", "-c", "ip -6 addr show dev tap0; "+probePath+" tcp "+outside6())
			return first(err, has(out, "inet6 fd00::100/64"), peerIs(lastLine(out), hostIPv6))
		},
	}, {
		name: "pasta-kit/mtu-cidr-ifname", says: "--mtu, --cidr and --ifname",
		run: func(ctx context.Context, m *machine) error {
			out, err := m.kitRun(ctx, []string{"--mtu=1400", "--cidr=10.41.0.0/16", "--ifname=net7"}, "sh", "-c",
				"ip addr show dev net7; "+probePath+" tcp "+outside()+" 100000")
			return first(err, has(out, "mtu 1400", "inet 10.41.0.100/16"), peerIs(lastLine(out), hostIPv4))
		},
	}, {
		name: "pasta-kit/host-loopback-off", says: "--disable-host-loopback closes the host's loopback, by the gateway and by the guest's own",
		run: func(ctx context.Context, m *machine) error {
			// The gateway's address leads outside then, where nobody has it.
			out, err := m.kitRun(ctx, noLoopback, "sh", "-c", "for a in 10.0.2.2 127.0.0.1; do timeout 2 "+probePath+" tcp $a:"+loopbackPort+"; done; echo asked")
			if err == nil && out != "asked" {
				err = fmt.Errorf("somebody answers: %q", out)
			}
			return err
		},
	}, {
		name: "pasta-kit/host-loopback-on", says: "without it 10.0.2.2 leads there",
		run: kitLoopback,
	}, {
		name: "pasta-kit/detach-netns", says: "--detach-netns, where the helper is given the namespaces by path",
		run: func(ctx context.Context, m *machine) error {
			out, err := m.kitRun(ctx, []string{"--detach-netns"}, "sh", "-c", "nsenter --net=$ROOTLESSKIT_STATE_DIR/netns "+probePath+" tcp "+outside())
			return first(err, peerIs(out, hostIPv4))
		},
	}, {
		name: "pasta-kit/killed", says: "the helper ends when RootlessKit is killed",
		run: kitKilled,
	}, {
		name: "pasta-kit/port-implicit", says: "a port that is listened on is reached from outside and from the host, TCP and UDP",
		run: func(ctx context.Context, m *machine) error {
			s, err := m.start(nil, append(m.kit("--port-driver=implicit", "--disable-host-loopback"), probePath, "serve", "8080")...)
			if err != nil {
				return err
			}
			err = errors.Join(reachBoth(ctx, m, "tcp", "8080", 1<<20), reachBoth(ctx, m, "udp", "8080", 1000))
			return errors.Join(err, s.end(ctx, unix.SIGTERM))
		},
	}}
	// RootlessKit refuses its builtin driver with pasta.
	for _, c := range []struct {
		what, says string
		run        func(context.Context, *machine, string) error
	}{
		{"tcp", "a TCP port reached from outside and from the host", kitTCP},
		{"udp", "a UDP port reached from outside", kitUDP},
		{"udp-loopback", "a UDP port reached from the host's loopback", kitUDPLoopback},
		{"ctl", "ports added, listed and removed while it runs, a connection living on", kitCtl},
		{"again", "the same port three times in a row", kitAgain},
		{"source", "the server sees the client's address and port, TCP and UDP", kitSource},
	} {
		checks = append(checks, check{
			name: "pasta-kit/port-pesto-" + c.what, says: c.says,
			run: func(ctx context.Context, m *machine) error { return c.run(ctx, m, "--port-driver=pesto") },
		})
	}
	return checks
}
