package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"epiphyte/test/harness"
)

func pluginRestart(ctx context.Context, d *driver) error {
	if err := first(d.create(ctx, "web"),
		d.serve(ctx, "one", "--network=web", "--publish=8080:80", "--publish=8080:80/udp"), d.serve(ctx, "two", "--network=web")); err != nil {
		return err
	}
	for range 2 {
		if _, err := d.do(ctx, "podman", "restart", "--time=1", "one"); err != nil {
			return err
		}
		if err := first(d.awaitServer(ctx, "one"), d.talk(ctx, "two", "one"), d.talk(ctx, "one", "two"), d.sourceKept(ctx, hostIPv4)); err != nil {
			return err
		}
	}
	return d.isMembers(ctx, "web", "one", "two")
}

// pluginCompose: a service's container is replaced by a new one under the same alias.
func pluginCompose(ctx context.Context, d *driver) error {
	app := func(name string) error {
		return d.serve(ctx, name, "--network=shop_back:alias=app", "--network=shop_front:alias=app", "--publish=8080:80", "--publish=8080:80/udp")
	}
	if err := first(d.create(ctx, "shop_back", "--internal"), d.create(ctx, "shop_front"),
		d.serve(ctx, "shop-db-1", "--network=shop_back:alias=db"), app("shop-app-1"),
		d.serve(ctx, "shop-web-1", "--network=shop_front:alias=web")); err != nil {
		return err
	}
	if err := first(d.talk(ctx, "shop-db-1", "app"), d.talk(ctx, "shop-web-1", "app"), d.sourceKept(ctx, hostIPv4)); err != nil {
		return err
	}
	if _, err := d.do(ctx, "podman", "rm", "--force", "--time=1", "shop-app-1"); err != nil {
		return err
	}
	if err := first(app("shop-app-2"), d.talk(ctx, "shop-db-1", "app"), d.talk(ctx, "shop-web-1", "app"), d.sourceKept(ctx, hostIPv4)); err != nil {
		return fmt.Errorf("replaced: %w", err)
	}
	if _, err := d.do(ctx, "podman", "rm", "--force", "--time=1", "shop-web-1", "shop-app-2", "shop-db-1"); err != nil {
		return err
	}
	_, err := d.do(ctx, "podman", "network", "rm", "shop_back", "shop_front")
	return first(err, portsFree())
}

func pluginKilled(ctx context.Context, d *driver) error {
	if err := first(d.create(ctx, "web", "--ipv6"),
		d.serve(ctx, "one", "--network=web:alias=uno", "--publish=8080:80", "--publish=8080:80/udp"), d.serve(ctx, "two", "--network=web")); err != nil {
		return err
	}
	workers, _, err := d.processes()
	if err != nil || len(workers) != 1 {
		return errors.Join(err, fmt.Errorf("workers: %v", workers))
	}
	if err := unix.Kill(workers[0], unix.SIGKILL); err != nil {
		return err
	}
	if err := first(d.sourceKept(ctx, hostIPv4), d.sourceKept(ctx, hostIPv6),
		d.talk(ctx, "two", "uno"), d.talk(ctx, "one", "two")); err != nil {
		return err
	}
	if _, err := d.do(ctx, "podman", "network", "disconnect", "web", "two"); err != nil {
		return err
	}
	return d.isMembers(ctx, "web", "one")
}

// pluginNothingLeft: rootless podman cannot start the network, so its keeper waits.
func pluginNothingLeft(ctx context.Context, d *driver) error {
	keepers := 1
	if d.root {
		keepers = 0
	}
	if err := first(d.create(ctx, "web"), d.serve(ctx, "one", "--network=web", "--publish=8080:80", "--publish=8080:80/udp")); err != nil {
		return err
	}
	if _, err := d.do(ctx, "podman", "stop", "--time=1", "one"); err != nil {
		return err
	}
	if err := first(portsFree(), d.awaitProcesses(0, keepers)); err != nil {
		return err
	}
	if _, err := d.do(ctx, "podman", "start", "one"); err != nil {
		return fmt.Errorf("once more: %w", err)
	}
	return first(d.awaitServer(ctx, "one"), d.sourceKept(ctx, hostIPv4))
}

func pluginAgain(ctx context.Context, d *driver) error {
	if err := first(d.create(ctx, "web"), d.serve(ctx, "one", "--network=web")); err != nil {
		return err
	}
	if _, err := d.do(ctx, "podman", "rm", "--force", "--time=0", "one"); err != nil {
		return err
	}
	if _, err := d.do(ctx, "podman", "network", "rm", "web"); err != nil {
		return err
	}
	if err := first(d.create(ctx, "web", "--subnet=10.77.5.0/24"), d.serve(ctx, "one", "--network=web")); err != nil {
		return err
	}
	out, err := d.do(ctx, "podman", "exec", "one", "ip", "addr", "show", "dev", "eth0")
	return first(err, has(out, "10.77.5."))
}

// killAll kills all processes of ours.
func (d *driver) killAll() error {
	pids, err := d.helpers()
	for _, pid := range pids {
		// One may have ended with another: a worker does with its keeper.
		if killErr := unix.Kill(pid, unix.SIGKILL); killErr != unix.ESRCH {
			err = errors.Join(err, killErr)
		}
	}
	return first(err, d.helperCount(0))
}

func pluginStarted(ctx context.Context, d *driver) error {
	return first(d.create(ctx, "web"), d.serve(ctx, "one", "--network=web"), d.awaitProcesses(1, 2),
		d.killAll(), d.serve(ctx, "two", "--network=web"), d.isMembers(ctx, "web", "two"))
}

// pluginNamespaceGone: podman without a chance to call the plugin is played by ip.
func pluginNamespaceGone(ctx context.Context, d *driver) error {
	if err := d.create(ctx, "web"); err != nil {
		return err
	}
	for _, argv := range [][]string{
		{"ip", "netns", "add", "gone"},
		{"epiphyte", "network", "connect", "--name=gone", "web", "/run/netns/gone"},
	} {
		if _, err := d.do(ctx, argv...); err != nil {
			return err
		}
	}
	if err := d.isMembers(ctx, "web", "gone"); err != nil {
		return err
	}
	_, err := d.do(ctx, "ip", "netns", "del", "gone")
	return first(err, harness.Eventually(waitTime, func() error { return d.isMembers(ctx, "web") }))
}

func pluginNotRunning(ctx context.Context, d *driver) error {
	if err := first(d.create(ctx, "web"), d.killAll()); err != nil {
		return err
	}
	const command = "epiphyte network start web"
	if err := failsWith(d.serve(ctx, "one", "--network=web"), command); err != nil {
		return err
	}
	if _, err := d.do(ctx, strings.Fields(command)...); err != nil {
		return err
	}
	_, err := d.do(ctx, "podman", "start", "one")
	return first(err, d.awaitServer(ctx, "one"), d.isMembers(ctx, "web", "one"), d.awaitProcesses(1, 2))
}
