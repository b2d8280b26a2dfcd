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
)

// rootlessNetns is where podman 6 keeps the namespace that its bridges are in.
var rootlessNetns = podman6.runroot() + "/networks/rootless-netns"

// pastaBridgeSuite: containers on a network of podman's own making, for which one helper
// serves a namespace that they all are behind.
func pastaBridgeSuite() suite { return podman5.bridgeSuite("pasta-bridge", pastaBridge()...) }

// pastaNextSuite: what podman 6 asks differently, and that all else is as it was.
func pastaNextSuite() suite {
	checks := append([]check{
		pastaSays("tcp-out", "as with the podman before it", "", "probe tcp "+outside()+" && probe tcp "+outside6(), peer(hostIPv4), peer(hostIPv6)),
		pastaSays("dns", "as with the podman before it", "", dnsScript(pastaDNS), "first "+pastaDNS+"\n"+outsideIPv4),
		pastaSays("host-internal", "as with the podman before it", "", "probe tcp host.containers.internal:"+hostPort, peer(hostIPv4)),
		{name: "pasta/publish-dual", says: "as with the podman before it", run: func(ctx context.Context, m *machine) error {
			return publishDual(ctx, m, pastaMode)
		}},
		{name: "pasta/publish-source", says: "as with the podman before it", run: func(ctx context.Context, m *machine) error {
			return publishPastaSource(ctx, m, pastaMode)
		}},
		{name: "pasta/build", says: "as with the podman before it", run: func(ctx context.Context, m *machine) error {
			return build(ctx, m, "podman", "build")
		}},
	}, pastaBridge()...)
	checks = append(checks, pestoBridge()...)
	return podman6.bridgeSuite("pasta-next", checks...)
}

// bridgeSuite renames checks to the suite's name and gives them a bridge.
func (e engine) bridgeSuite(name string, checks ...check) suite {
	for i, c := range checks {
		_, what, _ := strings.Cut(c.name, "/")
		checks[i].name = name + "/" + what
	}
	s := e.suite(checks...)
	s.needs = append(s.needs, program("nft"), works("a bridge of the podman in "+e.tree, func(ctx context.Context, m *machine) error {
		_, err := e.on(m).do(ctx, "podman", "network", "create", "bridge0net")
		return err
	}))
	return s
}

func pastaBridge() []check {
	says := func(name, says, script string, want ...string) check {
		return check{name: "bridge/" + name, says: says, run: func(ctx context.Context, m *machine) error {
			out, err := bridgeRun(ctx, m, "sh", "-c", script)
			return first(err, has(out, want...))
		}}
	}
	return []check{
		says("bridge-tcp", "4 MiB each way with a server outside", "probe tcp "+outside()+" 4194304", peer(hostIPv4)),
		says("bridge-udp", "datagrams of 1 and 1400 bytes with a server outside", "probe udp "+outside()+" 1 >&2; probe udp "+outside()+" 1400", peer(hostIPv4)),
		says("bridge-dns", "the network's resolver forwards through the helper's", "probe lookup "+serverName, outsideIPv4, outsideIPv6),
		{
			name: "bridge/bridge-ping", says: "outside answers echo requests across the bridge",
			run: func(ctx context.Context, m *machine) error {
				_, err := m.do(ctx, "podman", "run", "--rm", bridge, rawSockets, image, "ping", "-c1", "-W3", outsideIPv4)
				return err
			},
		},
		says("bridge-host-internal", "host.containers.internal leads to a server on the host's own address",
			"probe tcp host.containers.internal:"+hostPort, peer(hostIPv4)),
		{
			name: "bridge/bridge-publish", says: "published ports reached from outside and from the host, TCP and UDP",
			run: func(ctx context.Context, m *machine) error {
				if err := podmanServe(ctx, m, "one", bridge, "--publish=8080:80", "--publish=8080:80/udp"); err != nil {
					return err
				}
				return errors.Join(reachBoth(ctx, m, "tcp", "8080", 1<<20), reachBoth(ctx, m, "udp", "8080", 1000))
			},
		}, {
			name: "bridge/bridge-two", says: "two containers find each other by name and share one helper, which lives until the last is gone",
			run: bridgeByName,
		}, {
			name: "bridge/bridge-restart", says: "the network and a published port are there again after the only container restarts",
			run: func(ctx context.Context, m *machine) error {
				if err := podmanServe(ctx, m, "one", bridge, "--publish=8080:80"); err != nil {
					return err
				}
				for range 3 {
					if _, err := m.do(ctx, "podman", "restart", "--time=1", "one"); err != nil {
						return err
					}
					out, err := m.do(ctx, "podman", "exec", "one", "probe", "tcp", outside())
					if err := first(err, peerIs(out, hostIPv4), reachBoth(ctx, m, "tcp", "8080", 1000), m.helperCount(1)); err != nil {
						return err
					}
				}
				return nil
			},
		}}
}

func bridgeByName(ctx context.Context, m *machine) error {
	for _, name := range []string{"one", "two"} {
		if err := podmanServe(ctx, m, name, bridge); err != nil {
			return err
		}
	}
	if err := m.helperCount(1); err != nil {
		return err
	}
	if _, err := m.do(ctx, "podman", "exec", "one", "probe", "tcp", "two:80"); err != nil {
		return fmt.Errorf("from one to the other: %w", err)
	}
	if _, err := m.do(ctx, "podman", "rm", "--force", "--time=0", "two"); err != nil {
		return err
	}
	out, err := m.do(ctx, "podman", "exec", "one", "probe", "tcp", outside())
	if err := first(err, peerIs(out, hostIPv4)); err != nil {
		return fmt.Errorf("after one is gone: %w", err)
	}
	if _, err := m.do(ctx, "podman", "rm", "--force", "--time=0", "one"); err != nil {
		return err
	}
	return m.helperCount(0)
}

// pestoBridge: ports of bridge networks by pesto.
func pestoBridge() []check {
	return []check{{
		name: "pesto/pesto-source", says: "the server sees the client's address",
		run: func(ctx context.Context, m *machine) error {
			if err := podmanServe(ctx, m, "one", bridge, "--publish=8080:80", "--publish=8080:80/udp"); err != nil {
				return err
			}
			var errs []error
			for _, network := range []string{"tcp", "udp"} {
				x, err := reach(ctx, m.net.fromOutside, network, net.JoinHostPort(hostIPv4, "8080"), 1000)
				if err == nil && x.peer != x.local {
					err = fmt.Errorf("%s client %s is seen as %s", network, x.local, x.peer)
				}
				errs = append(errs, err)
			}
			return errors.Join(errs...)
		},
	}, {
		name: "pesto/pesto-rules", says: "pesto shows a container's ports while it runs, and a stopped one's are closed while another runs",
		run: func(ctx context.Context, m *machine) error {
			for name, port := range map[string]string{"one": "8080", "two": "8081"} {
				if err := podmanServe(ctx, m, name, bridge, "--publish="+port+":80"); err != nil {
					return err
				}
				if _, err := reach(ctx, m.net.fromOutside, "tcp", net.JoinHostPort(hostIPv4, port), 1000); err != nil {
					return err
				}
			}
			out, err := m.do(ctx, pastaDir+"/"+pestoName, rootlessNetns+"/pasta.sock")
			if err := first(err, has(out, "8080", "8081")); err != nil {
				return err
			}
			if _, err := m.do(ctx, "podman", "stop", "--time=1", "one"); err != nil {
				return err
			}
			if err := closed(ctx, m.net.fromOutside, net.JoinHostPort(hostIPv4, "8080")); err != nil {
				return fmt.Errorf("the stopped one's port: %w", err)
			}
			return reachBoth(ctx, m, "tcp", "8081", 1000)
		},
	}, {
		name: "pesto/pesto-loopback", says: "a port published on 127.0.0.1 is closed to the outside",
		run: func(ctx context.Context, m *machine) error { return publishHostIP(ctx, m, bridge) },
	}, {
		name: "pesto/pesto-crash", says: "a container on a network whose helper was killed starts again with its port",
		run: func(ctx context.Context, m *machine) error {
			if err := podmanServe(ctx, m, "one", bridge, "--publish=8080:80"); err != nil {
				return err
			}
			pid, err := os.ReadFile(filepath.Join(rootlessNetns, "rootless-netns-conn.pid"))
			if err != nil {
				return err
			}
			var n int
			if _, err := fmt.Sscan(string(pid), &n); err != nil {
				return err
			}
			if err := unix.Kill(n, unix.SIGKILL); err != nil {
				return err
			}
			if _, err := m.do(ctx, "podman", "restart", "--time=1", "one"); err != nil {
				return err
			}
			return errors.Join(reachBoth(ctx, m, "tcp", "8080", 1000), m.helperCount(1))
		},
	}}
}
