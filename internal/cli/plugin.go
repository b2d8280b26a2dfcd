package cli

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"

	"golang.org/x/sys/unix"

	"epiphyte/internal/netavark"
	"epiphyte/internal/netdef"
	"epiphyte/internal/network"
	"epiphyte/tap"
)

// pluginMain answers netavark, which calls the program as the driver of podman's networks.
// It returns the exit code.
func pluginMain(ctx context.Context, prog string, args []string, stdout, stderr io.Writer) int {
	if args[0] != netavark.Info && isTerminal(os.Stdin) {
		fmt.Fprintf(stderr, "%s %s is podman's to call, with JSON on stdin: for networks of your own see %s %s create\n",
			prog, args[0], prog, networkCommand)
		return 1
	}
	p, err := newPlugin(stderr)
	if err != nil {
		netavark.Fail(stdout, err)
		return 1
	}
	if p.Run(ctx, args, os.Stdin, stdout) != nil {
		return 1
	}
	return 0
}

// rootlessPortMain stands in for the program of that name, by which rootless podman
// publishes ports. It returns the exit code.
func rootlessPortMain(ctx context.Context, stdout, stderr io.Writer) int {
	p, err := newPlugin(stderr)
	if err != nil {
		fmt.Fprintln(stdout, err)
		return 1
	}
	if p.PublishRootless(ctx, os.Stdin, stdout) != nil {
		return 1
	}
	return 0
}

func newPlugin(stderr io.Writer) (*netavark.Plugin, error) {
	paths, err := netdef.DefaultPaths()
	return &netavark.Plugin{
		Paths:       paths,
		Version:     Version,
		Rootless:    netavark.RunsRootless(),
		Join:        joinDetached,
		CheckPolicy: func(path string) error { _, err := PolicyOptions{File: path}.ofMember(); return err },
		Logger:      slog.New(slog.NewTextHandler(stderr, nil)),
	}, err
}

// joinDetached makes a namespace a member that outlives this process.
func joinDetached(ctx context.Context, c *network.Client, device tap.Config, wish network.Member) (network.Member, *network.Info, error) {
	info, err := c.Info(ctx)
	if err != nil {
		return network.Member{}, nil, err
	}
	m := &member{network: info.Name, client: c, info: info}
	defer m.close()
	if err := m.takePolicy(PolicyOptions{}); err != nil {
		return network.Member{}, nil, err
	}
	options := defaultOptions(0)
	m.startAgent(ctx, &options, device, &wish)
	err = m.join(ctx, device, wish, nil)
	return m.granted, m.info, err
}

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
