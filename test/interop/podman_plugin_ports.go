package main

import (
	"context"
	"errors"
	"fmt"
	"net"
)

func pluginPublish(ctx context.Context, d *driver) error {
	if err := first(d.create(ctx, "web", "--ipv6"),
		d.serve(ctx, "one", "--network=web", "--publish=8080:80", "--publish=8080:80/udp",
			"--publish=8071-8073:79-81", "--publish=127.0.0.1:8090:80")); err != nil {
		return err
	}
	if err := errors.Join(d.sourceKept(ctx, hostIPv4), d.sourceKept(ctx, hostIPv6)); err != nil {
		return err
	}
	_, inRange := reach(ctx, d.net.fromOutside, "tcp", net.JoinHostPort(hostIPv4, "8072"), 1000)
	_, onHost := reach(ctx, d.net.fromHost, "tcp", "127.0.0.1:8090", 1000)
	return errors.Join(inRange, onHost, closed(ctx, d.net.fromOutside, net.JoinHostPort(hostIPv4, "8090")))
}

// sourceKept says whether a server behind port 8080 of a host's address sees clients
// from outside as they are.
func (d *driver) sourceKept(ctx context.Context, addr string) error {
	for _, network := range []string{"tcp", "udp"} {
		x, err := reach(ctx, d.net.fromOutside, network, net.JoinHostPort(addr, "8080"), 1000)
		if err != nil {
			return err
		}
		if x.peer != x.local {
			return fmt.Errorf("%s client %s is seen as %s", network, x.local, x.peer)
		}
	}
	return nil
}

func pluginBusy(ctx context.Context, d *driver) error {
	if err := first(d.create(ctx, "web"), d.serve(ctx, "one", "--network=web", "--publish=8080:80")); err != nil {
		return err
	}
	err := d.serve(ctx, "two", "--network=web", "--publish=8080:80", "--publish=8080:80/udp")
	if err := failsWith(err, "8080"); err != nil {
		return err
	}
	if err := d.isMembers(ctx, "web", "one"); err != nil {
		return err
	}
	if _, err := d.do(ctx, "podman", "rm", "--force", "--time=0", "one", "two"); err != nil {
		return err
	}
	return first(d.serve(ctx, "two", "--network=web", "--publish=8080:80", "--publish=8080:80/udp"), d.sourceKept(ctx, hostIPv4))
}

func pluginHandedOn(ctx context.Context, d *driver) error {
	const bridge = "handed"
	if _, err := d.do(ctx, "podman", "network", "create", bridge); err != nil {
		return err
	}
	err := d.serve(ctx, "one", "--network="+bridge, "--publish=8080:80")
	if err == nil {
		_, err = reach(ctx, d.net.fromOutside, "tcp", net.JoinHostPort(hostIPv4, "8080"), 1000)
	}
	_, rmErr := d.do(ctx, "podman", "network", "rm", "--force", "--time=0", bridge)
	return errors.Join(err, rmErr)
}
