package netavark

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"time"

	"epiphyte/internal/network"
)

// managerPatience bounds how long the user's service manager may take to start a network.
const managerPatience = 10 * time.Second

// startFromHost starts the network's process from the host's network namespace. It returns
// when the network accepts connections.
func (p *Plugin) startFromHost(ctx context.Context, name string) error {
	if p.Rootless && p.startUnit(ctx, name) == nil {
		return nil
	}
	return network.Start(p.Paths, name)(ctx)
}

// startFromSetup starts it from the namespace that setup runs in.
func (p *Plugin) startFromSetup(ctx context.Context, name string) error {
	if !p.Rootless {
		return p.startFromHost(ctx, name)
	}
	if err := p.startUnit(ctx, name); err != nil {
		return fmt.Errorf("it is not running, and rootless podman cannot start it here: run epiphyte network start %s (the user's service manager does not: %w)", name, err)
	}
	return nil
}

// startUnit has the user's service manager start a network.
func (p *Plugin) startUnit(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, managerPatience)
	defer cancel()
	unit := "epiphyte-network@" + name + ".service"
	cmd := exec.CommandContext(ctx, "systemctl", "--user", "start", unit)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	err := cmd.Run()
	if err == nil {
		// The manager's environment may name other directories than ours.
		var c *network.Client
		if c, err = network.Dial(p.Paths.Socket(name)); err == nil {
			return c.Close()
		}
	}
	if first, _, _ := bytes.Cut(stderr.Bytes(), []byte("\n")); len(first) > 0 {
		err = errors.New(string(first))
	}
	return fmt.Errorf("start %s: %w", unit, err)
}
