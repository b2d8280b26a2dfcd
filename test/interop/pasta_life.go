package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
)

// pastaLife: starts and stops.
func pastaLife() []check {
	return []check{{
		name: "pasta/keep-id", says: "--userns=keep-id has the network",
		run: func(ctx context.Context, m *machine) error {
			out, err := m.do(ctx, "podman", "run", "--rm", "--userns=keep-id", image, "probe", "tcp", outside())
			return first(err, peerIs(out, hostIPv4))
		},
	}, {
		name: "pasta/build", says: "a RUN step of podman build has the network",
		run: func(ctx context.Context, m *machine) error { return build(ctx, m, "podman", "build") },
	}, {
		name: "pasta/buildah", says: "buildah build and buildah run have it",
		needs: []need{program("buildah")},
		run: func(ctx context.Context, m *machine) error {
			if err := build(ctx, m, "buildah", "build", "--isolation=oci"); err != nil {
				return err
			}
			id, err := m.do(ctx, "buildah", "from", "localhost/"+image)
			if err != nil {
				return err
			}
			out, err := m.do(ctx, "buildah", "run", "--isolation=oci", id, "probe", "tcp", outside())
			_, rmErr := m.do(ctx, "buildah", "rm", id)
			return first(err, peerIs(out, hostIPv4), rmErr)
		},
	}, {
		name: "pasta/streams-closed", says: "the helper holds none of its caller's streams",
		run: func(ctx context.Context, m *machine) error {
			if err := podmanServe(ctx, m, "one"); err != nil {
				return err
			}
			pids, err := m.helpers()
			if err == nil && len(pids) == 0 {
				err = errors.New("no helper runs")
			}
			for _, pid := range pids {
				err = errors.Join(err, holdsNoStreams(pid))
			}
			return err
		},
	}, {
		name: "pasta/stop-leaves-nothing", says: "after podman stop no helper, network namespace or port is left",
		run: func(ctx context.Context, m *machine) error {
			return podmanStop(ctx, m, "--publish=8080:80", "--publish=8080:80/udp")
		},
	}, {
		name: "pasta/crash", says: "podman rm frees the port of a container whose conmon and process were killed",
		run: func(ctx context.Context, m *machine) error {
			for range 2 {
				if err := podmanServe(ctx, m, "one", "--publish=8080:80"); err != nil {
					return err
				}
				if err := errors.Join(reachBoth(ctx, m, "tcp", "8080", 1000), m.helperCount(1)); err != nil {
					return err
				}
				if err := podmanCrash(ctx, m); err != nil {
					return err
				}
				if _, err := m.do(ctx, "podman", "rm", "--force", "--time=0", "one"); err != nil {
					return err
				}
			}
			return nothingLeft(m)
		},
	}}
}

// holdsNoStreams wants the standard descriptors of a process to lead nowhere. An agent has two
// descriptors in their place, both sockets of its own, where podman's streams are pipes.
func holdsNoStreams(pid int) (err error) {
	comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		return err
	}
	agent := string(comm) == "epiphyte-agent\n"
	for fd := range 3 {
		to, linkErr := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", pid, fd))
		if linkErr == nil && to != os.DevNull && !(agent && fd < 2 && strings.HasPrefix(to, "socket:")) {
			err = errors.Join(err, fmt.Errorf("descriptor %d of %d is %s", fd, pid, to))
		}
	}
	return err
}

// build runs a builder with one step that needs the network.
func build(ctx context.Context, m *machine, argv ...string) error {
	const file = confDir + "/Containerfile"
	if err := os.WriteFile(file, []byte("FROM localhost/"+image+"\nRUN probe tcp "+outside()+" && probe lookup "+serverName+"\n"), 0o644); err != nil {
		return err
	}
	out, err := m.do(ctx, append(argv, "--no-cache", "--file="+file, homeDir+"/tmp")...)
	return first(err, has(out, peer(hostIPv4), outsideIPv4))
}
