package main

import (
	"context"
	"net"
	"os"
)

// pastaOptions: options by --network pasta: and by containers.conf.
func pastaOptions() []check {
	gateway := net.JoinHostPort(outsideIPv4, loopbackPort)
	return []check{
		pastaSays("mtu", "-m sets the MTU, and a transfer at it", "-m,1400",
			"ip link show dev "+hostLink+"; probe tcp "+outside()+" 1048576; probe udp "+outside(), "mtu 1400", peer(hostIPv4)),
		pastaBeyond(pastaSays("fragments", "datagrams above the MTU arrive", "-m,1400", "probe udp "+outside()+" 8000; probe udp "+outside6()+" 8000", peer(hostIPv4), peer(hostIPv6))),
		pastaSays("ifname", "-I and --ns-mac-addr name the TAP and its address", "-I,foo0,--ns-mac-addr,9a:dd:31:ea:92:98",
			"ip link show dev foo0; probe tcp "+outside(), "9a:dd:31:ea:92:98", peer(hostIPv4)),
		pastaSays("own-address", "-a, -n and -g give another address, netmask and gateway", "-a,192.168.0.2,-g,192.168.0.1,-n,24",
			"ip addr; ip route; probe tcp "+outside()+"; probe lookup "+serverName,
			"inet 192.168.0.2/24", "default via 192.168.0.1", peer(hostIPv4), outsideIPv4),
		pastaSays("own-address6", "-a and -g take IPv6 addresses", "-a,2001:db8:7::2,-g,2001:db8:7::1",
			"ip addr; ip -6 route; probe tcp "+outside6(),
			"inet6 2001:db8:7::2/64", "inet "+hostIPv4+"/24", "default via 2001:db8:7::1", peer(hostIPv6)),
		pastaSays("interface", "-i chooses the interface whose address is taken", "-i,"+sideLink,
			"ip addr show dev "+sideLink, "inet "+sideIPv4),
		pastaSays("map-gw", "--map-gw leads the gateway's address to the host's loopback", "--map-gw",
			"probe tcp "+gateway+" && probe udp "+gateway+" && probe tcp "+net.JoinHostPort(outsideIPv6, loopbackPort),
			peer("127.0.0.1"), peer("::1")),
		pastaSays("map-guest-addr", "--map-guest-addr chooses the address that stands for the host", "--map-guest-addr,192.0.2.77",
			"cat /etc/hosts; probe tcp 192.0.2.77:"+hostPort, "192.0.2.77\thost.containers.internal", peer(hostIPv4)),
		pastaSays("dns-forward", "--dns-forward chooses the forwarder's address", "--dns-forward,192.0.2.53",
			dnsScript("192.0.2.53"), "first 192.0.2.53\n"+outsideIPv4),
		pastaSays("ipv4-only", "-4 leaves no IPv6 address", "-4",
			"ip -6 addr show scope global; echo none; probe tcp "+outside(), "none\n"+peer(hostIPv4)),
		pastaSays("ipv6-only", "-6 leaves no IPv4 address", "-6",
			"ip -4 addr show dev "+hostLink+"; echo none; probe tcp "+outside6(), "none\n"+peer(hostIPv6)),
		pastaSays("namespace-ports", "-T leads the container's loopback to the host's", "-T,"+loopbackPort+",-U,"+loopbackPort,
			"probe tcp 127.0.0.1:"+loopbackPort+" 1048576 && probe udp 127.0.0.1:"+loopbackPort+" && probe tcp [::1]:"+loopbackPort,
			peer("127.0.0.1"), peer("::1")),
		pastaSays("outbound", "-o is what a server sees", "-o,"+hostIPv4b+",-o,"+hostIPv6b,
			"probe tcp "+outside()+"; probe udp "+outside6(), peer(hostIPv4b), peer(hostIPv6b)),
		{
			name: "pasta/auto", says: "-t auto publishes what listens in the container, while it does",
			run: pastaAuto,
		}, {
			name: "pasta/unknown", says: "an option that there is not is refused by name, with the helper's status",
			run: func(ctx context.Context, m *machine) error {
				_, err := pastaRun(ctx, m, "--no-such-thing", "true")
				return first(failsWith(err, "no-such-thing"), failsWith(err, "exit code 1"))
			},
		}, {
			name: "pasta/pcap", says: "-p captures what crosses the TAP",
			run: pastaCapture,
		}, {
			name: "pasta/own-options", says: "options of ours reach the helper, too",
			needs: []need{beyond},
			run:   pastaOwnOptions,
		}, {
			name: "pasta/containers-conf", says: "pasta_options of containers.conf, and --network pasta: over it",
			run: pastaConfigured,
		}}
}

func pastaAuto(ctx context.Context, m *machine) error {
	if _, err := m.do(ctx, "podman", "run", "--detach", "--name=one", "--network=pasta:-t,auto,-u,auto", image, "sleep", "60"); err != nil {
		return err
	}
	if _, err := m.do(ctx, "podman", "exec", "--detach", "one", "probe", "serve", "8080"); err != nil {
		return err
	}
	return reachBoth(ctx, m, "tcp", "8080", 100000)
}

func pastaCapture(ctx context.Context, m *machine) error {
	file := homeDir + "/tmp/out.pcap"
	if _, err := pastaRun(ctx, m, "-p,"+file, "probe", "tcp", outside(), "100000"); err != nil {
		return err
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	// What the server says of its client passes the TAP as it is.
	return first(has(string(b), peer(hostIPv4)), os.Remove(file))
}

func pastaOwnOptions(ctx context.Context, m *machine) error {
	socket := homeDir + "/tmp/api.sock"
	if err := podmanServe(ctx, m, "one", "--network=pasta:--queues,2,--http-socket,"+socket, "--publish=8080:80"); err != nil {
		return err
	}
	if _, err := os.Stat(socket); err != nil {
		return err
	}
	return reachBoth(ctx, m, "tcp", "8080", 1<<20)
}

func pastaConfigured(ctx context.Context, m *machine) error {
	const override = confDir + "/pasta-override.conf"
	text := "[network]\npasta_options = [\"-I\", \"conf0\", \"--ns-mac-addr\", \"9a:dd:31:ea:92:98\"]\n"
	if err := os.WriteFile(override, []byte(text), 0o644); err != nil {
		return err
	}
	for network, want := range map[string]string{"pasta": "9a:dd:31:ea:92:98", "pasta:--ns-mac-addr,aa:bb:cc:dd:ee:f0": "aa:bb:cc:dd:ee:f0"} {
		out, err := output(m.command(ctx, []string{"CONTAINERS_CONF_OVERRIDE=" + override},
			"podman", "run", "--rm", "--network="+network, image, "ip", "link", "show", "dev", "conf0"))
		if err := first(err, has(out, want)); err != nil {
			return err
		}
	}
	return nil
}
