package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"epiphyte/test/harness"
)

// podmanLife: starts and stops.
func podmanLife() []check {
	return []check{{
		name: "podman/keep-id", says: "--userns=keep-id, where the namespace is made before the helper is asked by PID",
		run: func(ctx context.Context, m *machine) error {
			out, err := m.do(ctx, "podman", "run", "--rm", "--userns=keep-id", "--network=slirp4netns", image, "probe", "tcp", outside())
			return first(err, peerIs(out, hostIPv4))
		},
	}, {
		name: "podman/build", says: "a RUN step of podman build has the network",
		run: func(ctx context.Context, m *machine) error {
			file := confDir + "/Containerfile"
			if err := os.WriteFile(file, []byte("FROM localhost/"+image+"\nRUN probe tcp "+outside()+"\n"), 0o644); err != nil {
				return err
			}
			env, err := m.pathWithHelper() // podman's builder knows no network_cmd_path
			if err != nil {
				return err
			}
			out, err := output(m.command(ctx, env, "podman", "build", "--no-cache", "--file="+file, homeDir+"/tmp"))
			return first(err, has(out, "peer "+hostIPv4))
		},
	}, {
		name: "podman/restart", says: "after podman restart there is one helper, and the network",
		run: func(ctx context.Context, m *machine) error {
			if err := podmanServe(ctx, m, "one", "--network=slirp4netns"); err != nil {
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
	}, {
		name: "podman/stop-leaves-nothing", says: "after podman stop no helper, network namespace or port is left",
		run: func(ctx context.Context, m *machine) error {
			return podmanStop(ctx, m, "--network=slirp4netns", "--publish=8080:80")
		},
	}, {
		name: "podman/crash-leaves-nothing", says: "nor when conmon and the container are killed",
		run: func(ctx context.Context, m *machine) error {
			if err := podmanServe(ctx, m, "one", "--network=slirp4netns"); err != nil {
				return err
			}
			return errors.Join(podmanCrash(ctx, m), m.helperCount(0))
		},
	}}
}

// podmanStop stops the container one, with these flags.
func podmanStop(ctx context.Context, m *machine, flags ...string) error {
	if err := podmanServe(ctx, m, "one", flags...); err != nil {
		return err
	}
	if err := m.helperCount(1); err != nil {
		return err
	}
	if _, err := m.do(ctx, "podman", "stop", "--time=1", "one"); err != nil {
		return err
	}
	return nothingLeft(m)
}

// podmanCrash kills conmon and the process of the container one.
func podmanCrash(ctx context.Context, m *machine) error {
	out, err := m.do(ctx, "podman", "inspect", "--format", "{{.State.ConmonPid}} {{.State.Pid}}", "one")
	if err != nil {
		return err
	}
	var conmon, pid int
	if _, err := fmt.Sscan(out, &conmon, &pid); err != nil {
		return err
	}
	return errors.Join(unix.Kill(conmon, unix.SIGKILL), unix.Kill(pid, unix.SIGKILL))
}

// nothingLeft looks for what a stopped container's network might leave.
func nothingLeft(m *machine) error {
	return errors.Join(m.helperCount(0), harness.Eventually(waitTime, func() error {
		left, err := filepath.Glob(runtimeDir + "/netns/netns-*")
		if err == nil && len(left) > 0 {
			err = fmt.Errorf("namespaces left: %v", left)
		}
		return errors.Join(err, portsFree())
	}))
}

// portsFree says whether port 8080, which the checks publish, is still taken.
func portsFree() error {
	const port = ":1F90" // as /proc has it
	for _, table := range []string{"tcp", "tcp6", "udp", "udp6"} {
		b, err := os.ReadFile("/proc/thread-self/net/" + table)
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(b)) {
			// The local address is the second field; a listener and a UDP
			// socket without a peer have port 0 in the third.
			f := strings.Fields(line)
			if len(f) > 2 && strings.HasSuffix(f[1], port) && strings.HasSuffix(f[2], ":0000") {
				return fmt.Errorf("port 8080 is still taken: %s", strings.TrimSpace(line))
			}
		}
	}
	return nil
}
