package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
)

const pastaMode = "--network=pasta"

// pastaPorts: published ports, which podman hands to the helper when it starts it.
func pastaPorts() []check {
	var checks []check
	add := func(what, says string, run func(context.Context, *machine, string) error) {
		checks = append(checks, check{
			name: "pasta/publish-" + what, says: says,
			run: func(ctx context.Context, m *machine) error { return run(ctx, m, pastaMode) },
		})
	}
	add("tcp", "a TCP port reached from outside and from the host", publishTCP)
	add("udp", "a UDP port reached from outside", publishUDP)
	add("udp-loopback", "a UDP port reached from the host's loopback", publishUDPLoopback)
	add("range", "a range of ports, first and last", publishRange)
	add("thousand", "a thousand TCP ports", publishThousand)
	add("host-ip", "a port published on 127.0.0.1 is closed to the outside", publishHostIP)
	add("ipv6", "a port published on an IPv6 address of the host", publishIPv6)
	add("dual", "a port without an address is open on IPv4 and IPv6, TCP and UDP", publishDual)
	add("loopback6", "a port published on [::1] is open there alone", publishLoopback6)
	add("busy", "a port that is taken is refused by name, and free after its owner stops", publishBusy)
	add("source", "the server sees the client's address and port, TCP and UDP; clients on the host by the addresses of pasta", publishPastaSource)
	add("restart", "published ports work after each of twenty restarts", publishRestarts)
	add("again", "stopped and started 50 times with the same port", publishAgain)
	for i := range checks {
		checks[i].limit = 3 * checkTime // of which the last two may need more than one
	}
	return checks
}

func publishDual(ctx context.Context, m *machine, mode string) error {
	if err := podmanServe(ctx, m, "one", mode, "--publish=8080:80", "--publish=8080:80/udp"); err != nil {
		return err
	}
	var errs []error
	for _, network := range []string{"tcp", "udp"} {
		for _, to := range []struct {
			dial dialer
			addr string
		}{
			{m.net.fromOutside, hostIPv4}, {m.net.fromOutside, hostIPv6},
			{m.net.fromHost, "127.0.0.1"}, {m.net.fromHost, "::1"},
			{m.net.fromHost, hostIPv4}, {m.net.fromHost, hostIPv6},
		} {
			_, err := reach(ctx, to.dial, network, net.JoinHostPort(to.addr, "8080"), 1000)
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func publishLoopback6(ctx context.Context, m *machine, mode string) error {
	if err := podmanServe(ctx, m, "one", mode, "--publish=[::1]:8080:80"); err != nil {
		return err
	}
	_, err := reach(ctx, m.net.fromHost, "tcp", "[::1]:8080", 1000)
	return errors.Join(err, closed(ctx, m.net.fromHost, "127.0.0.1:8080"), closed(ctx, m.net.fromOutside, net.JoinHostPort(hostIPv6, "8080")))
}

// publishPastaSource: a client on the host's loopback is seen under the container's own
// address, one on another address of the host under what stands for the host.
func publishPastaSource(ctx context.Context, m *machine, mode string) error {
	if err := podmanServe(ctx, m, "one", mode, "--publish=8080:80", "--publish=8080:80/udp"); err != nil {
		return err
	}
	var errs []error
	for _, network := range []string{"tcp", "udp"} {
		for _, addr := range []string{hostIPv4, hostIPv6} {
			x, err := reach(ctx, m.net.fromOutside, network, net.JoinHostPort(addr, "8080"), 1000)
			if err == nil && x.peer != x.local {
				err = fmt.Errorf("%s client %s is seen as %s", network, x.local, x.peer)
			}
			errs = append(errs, err)
		}
		want := map[string]string{"127.0.0.1": hostIPv4, "::1": hostIPv6, hostIPv4: pastaHost}
		for addr, want := range want {
			x, err := reach(ctx, m.net.fromHost, network, net.JoinHostPort(addr, "8080"), 1000)
			if err == nil && host(x.peer) != want {
				err = fmt.Errorf("%s client of %s is seen as %s, want %s", network, addr, x.peer, want)
			}
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func publishRestarts(ctx context.Context, m *machine, mode string) error {
	if err := podmanServe(ctx, m, "one", mode, "--publish=8080:80", "--publish=8080:80/udp"); err != nil {
		return err
	}
	for i := range 20 {
		if _, err := m.do(ctx, "podman", "restart", "--time=1", "one"); err != nil {
			return fmt.Errorf("restart %d: %w", i+1, err)
		}
		if err := reachBoth(ctx, m, "tcp", "8080", 1000); err != nil {
			return fmt.Errorf("after restart %d: %w", i+1, err)
		}
	}
	return m.helperCount(1)
}

// publishAgain has two containers at it, each with a port of its own.
func publishAgain(ctx context.Context, m *machine, mode string) error {
	const containers, each = 2, 25
	errs := make([]error, containers)
	var all sync.WaitGroup
	for i := range containers {
		all.Go(func() { errs[i] = stopAndStart(ctx, m, mode, fmt.Sprintf("again%d", i), fmt.Sprint(8080+i), each) })
	}
	all.Wait()
	return errors.Join(errs...)
}

func stopAndStart(ctx context.Context, m *machine, mode, name, port string, times int) error {
	if err := podmanServe(ctx, m, name, mode, "--publish="+port+":80"); err != nil {
		return err
	}
	for i := range times {
		_, err := m.do(ctx, "podman", "stop", "--time=1", name)
		if err == nil {
			_, err = m.do(ctx, "podman", "start", name)
		}
		if err == nil {
			_, err = reach(ctx, m.net.fromOutside, "tcp", net.JoinHostPort(hostIPv4, port), 1000)
		}
		if err != nil {
			return fmt.Errorf("round %d: %w", i+1, err)
		}
	}
	return nil
}
