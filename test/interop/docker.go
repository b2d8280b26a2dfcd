package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/test/harness"
)

// Where the start script of rootless Docker is looked for besides the PATH:
// Debian ships it among examples.
const dockerScript = "/usr/share/docker.io/contrib/dockerd-rootless.sh"

const (
	dockerSocket = runtimeDir + "/docker.sock"
	// dockerStart is what the daemon may take to answer.
	dockerStart = 25 * time.Second
)

// dockerd is the daemon that the checks of the suite share.
type dockerd struct {
	session *session // nil when it could not be started
	err     error    // why; it is not tried again
}

// dockerNet is how the start script is led to the helper.
type dockerNet struct {
	suite string
	needs []need
	env   func(*machine) ([]string, error)
}

// dockerSuite: the start script finds the helper in the PATH, under
// slirp4netns's name, and runs the daemon by RootlessKit.
func dockerSuite() suite {
	n := dockerNet{suite: "docker", needs: []need{slirp, program("rootlesskit")}, env: (*machine).pathWithHelper}
	return n.of(dockerChecks()...)
}

// pastaDockerSuite: the same with the newest RootlessKit and its driver for pasta, which
// forwards the ports that Docker's proxies listen on.
func pastaDockerSuite() suite {
	n := dockerNet{suite: "pasta-docker", needs: []need{pasta, program(kit3Dir + "/rootlesskit")}, env: func(m *machine) ([]string, error) {
		return []string{
			"PATH=" + pastaDir + ":" + kit3Dir + ":" + searchPath,
			"DOCKERD_ROOTLESS_ROOTLESSKIT_NET=pasta", "DOCKERD_ROOTLESS_ROOTLESSKIT_MTU=65520",
			"DOCKERD_ROOTLESS_ROOTLESSKIT_PORT_DRIVER=implicit",
		}, m.pastaLinks()
	}}
	same := map[string]bool{"tcp-out": true, "udp-out": true, "dns": true, "publish-tcp": true, "publish-udp": true}
	return n.of(slices.DeleteFunc(dockerChecks(), func(c check) bool {
		_, what, _ := strings.Cut(c.name, "/")
		return !same[what]
	})...)
}

func (n dockerNet) of(checks ...check) suite {
	checks = append(checks, check{
		name: "docker/stop-leaves-nothing", says: "the daemon ends by SIGTERM and no helper is left",
		run: func(ctx context.Context, m *machine) error { return m.dockerStop(ctx) },
	})
	for i, c := range checks {
		_, what, _ := strings.Cut(c.name, "/")
		checks[i].name = n.suite + "/" + what
		checks[i].run = n.run(c.run)
	}
	return suite{
		needs: append(slices.Clone(n.needs), program("dockerd", "docker", "runc", "containerd", "newuidmap", "iptables"), staticBusybox,
			func(_ context.Context, m *machine) string {
				if _, err := m.dockerdScript(); err != nil {
					return "dockerd-rootless.sh is not installed"
				}
				return ""
			},
			works("what dockerd needs, iptables and bridges in a user namespace,", dockerWorks)),
		clean: func(ctx context.Context, m *machine) error {
			if m.docker == nil || m.docker.session == nil {
				return m.noHelpers()
			}
			ids, err := m.dockerDo(ctx, "ps", "--all", "--quiet")
			if err == nil && ids != "" {
				_, err = m.dockerDo(ctx, append([]string{"rm", "--force"}, strings.Fields(ids)...)...)
			}
			return err
		},
		end: func(ctx context.Context, m *machine) error {
			if m.docker == nil || m.docker.session == nil {
				m.docker = nil // the next suite may try
				return nil
			}
			return m.dockerStop(ctx)
		},
		checks: checks,
	}
}

func (m *machine) dockerdScript() (string, error) {
	if path, err := m.find("dockerd-rootless.sh"); err == nil {
		return path, nil
	}
	return dockerScript, unix.Access(dockerScript, unix.R_OK)
}

func dockerWorks(ctx context.Context, m *machine) error {
	_, err := m.do(ctx, "rootlesskit", "--state-dir="+kitState, "--copy-up=/etc", "--copy-up=/run", "sh", "-c",
		"rm -f /run/xtables.lock; unshare -n sh -c 'iptables -t nat -A POSTROUTING -m addrtype --src-type LOCAL -j MASQUERADE && "+
			"iptables -A FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT && ip link add docker9 type bridge'")
	return errors.Join(err, os.RemoveAll(kitState))
}

// run starts the daemon if that has not been tried and does something with it.
func (n dockerNet) run(run func(context.Context, *machine) error) func(context.Context, *machine) error {
	return func(ctx context.Context, m *machine) error {
		if m.docker == nil {
			if err := n.start(ctx, m); err != nil {
				m.docker = &dockerd{err: errors.New("dockerd did not start: see the first check of the suite")}
				return err
			}
		}
		if m.docker.err != nil {
			return m.docker.err
		}
		return run(ctx, m)
	}
}

func (n dockerNet) start(ctx context.Context, m *machine) error {
	script, err := m.dockerdScript()
	if err != nil {
		return err
	}
	env, err := n.env(m)
	if err != nil {
		return err
	}
	s, err := m.start(env, "sh", script,
		"--storage-driver=vfs", "--data-root="+homeDir+"/docker", "--host=unix://"+dockerSocket, "--experimental=false")
	if err != nil {
		return err
	}
	m.docker = &dockerd{session: s}
	err = harness.Eventually(dockerStart, func() error {
		if s.alive() != nil {
			return nil // there is nothing to wait for
		}
		_, err := m.dockerDo(ctx, "version")
		return err
	})
	if dead := s.alive(); dead != nil {
		return fmt.Errorf("start dockerd: %w", dead)
	}
	if err == nil {
		err = m.importImage(ctx, dockerEnv(), "docker", "import")
	}
	if err != nil {
		return errors.Join(fmt.Errorf("start dockerd: %w\n%s", err, tail(s.out.String())), m.dockerStop(ctx))
	}
	return nil
}

func (m *machine) dockerStop(ctx context.Context) error {
	err := m.docker.session.end(ctx, unix.SIGTERM)
	m.docker = nil
	return errors.Join(err, m.noHelpers())
}

func dockerEnv() []string { return []string{"DOCKER_HOST=unix://" + dockerSocket} }

func (m *machine) dockerDo(ctx context.Context, args ...string) (string, error) {
	return output(m.command(ctx, dockerEnv(), append([]string{"docker"}, args...)...))
}

func (m *machine) dockerOnce(ctx context.Context, argv ...string) (string, error) {
	return m.dockerDo(ctx, append([]string{"run", "--rm", image}, argv...)...)
}

func (m *machine) dockerServe(ctx context.Context, name string, flags ...string) error {
	args := append([]string{"run", "--detach", "--name=" + name}, flags...)
	_, err := m.dockerDo(ctx, append(args, image, "probe", "serve", "80")...)
	return err
}

func dockerChecks() []check {
	return []check{{
		name: "docker/helper", says: "the start script takes the helper for slirp4netns, with an MTU of 65520",
		run: func(_ context.Context, m *machine) error {
			pids, err := m.helpers()
			if err != nil || len(pids) != 1 {
				return errors.Join(err, fmt.Errorf("%d helpers run, want 1", len(pids)))
			}
			argv, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pids[0]))
			return first(err, has(strings.ReplaceAll(string(argv), "\x00", " "), "--mtu 65520", "--disable-host-loopback"))
		},
	}, {
		name: "docker/tcp-out", says: "4 MiB each way with a server outside",
		run: func(ctx context.Context, m *machine) error {
			out, err := m.dockerOnce(ctx, "probe", "tcp", outside(), "4194304")
			return first(err, peerIs(out, hostIPv4))
		},
	}, {
		name: "docker/udp-out", says: "datagrams of 1400 bytes with a server outside",
		run: func(ctx context.Context, m *machine) error {
			out, err := m.dockerOnce(ctx, "probe", "udp", outside(), "1400")
			return first(err, peerIs(out, hostIPv4))
		},
	}, {
		name: "docker/dns", says: "resolv.conf names the helper's resolver",
		run: func(ctx context.Context, m *machine) error {
			out, err := m.dockerOnce(ctx, "sh", "-c", dnsScript("10.0.2.3"))
			return first(err, dnsAnswers(out, "10.0.2.3"))
		},
	}, {
		name: "docker/ping", says: "gateway and outside answer echo requests across the bridge",
		run: func(ctx context.Context, m *machine) error {
			_, err := m.dockerOnce(ctx, "sh", "-c", "ping -c1 -W3 10.0.2.2 && ping -c1 -W3 "+outsideIPv4)
			return err
		},
	}, {
		name: "docker/host-loopback-off", says: "the host's loopback is unreachable",
		run: func(ctx context.Context, m *machine) error {
			_, err := m.dockerOnce(ctx, "probe", "tcp", net.JoinHostPort("10.0.2.2", loopbackPort))
			return failsWith(err, "unreachable", "refused")
		},
	}, {
		name: "docker/publish-tcp", says: "a published TCP port reached from outside and from the host, twice in a row",
		run: func(ctx context.Context, m *machine) error {
			for _, name := range []string{"one", "two"} {
				if err := m.dockerServe(ctx, name, "--publish=8080:80"); err != nil {
					return err
				}
				if err := reachBoth(ctx, m, "tcp", "8080", 1<<20); err != nil {
					return err
				}
				if _, err := m.dockerDo(ctx, "rm", "--force", name); err != nil {
					return err
				}
			}
			return nil
		},
	}, {
		name: "docker/publish-udp", says: "a published UDP port reached from outside and from the host",
		run: func(ctx context.Context, m *machine) error {
			if err := m.dockerServe(ctx, "one", "--publish=8080:80/udp"); err != nil {
				return err
			}
			return reachBoth(ctx, m, "udp", "8080", 1000)
		},
	}, {
		name: "docker/restart", says: "the network is there after docker restart",
		run: func(ctx context.Context, m *machine) error {
			if err := m.dockerServe(ctx, "one", "--publish=8080:80"); err != nil {
				return err
			}
			if _, err := m.dockerDo(ctx, "restart", "--time=1", "one"); err != nil {
				return err
			}
			out, err := m.dockerDo(ctx, "exec", "one", "probe", "tcp", outside())
			return first(err, peerIs(out, hostIPv4), reachBoth(ctx, m, "tcp", "8080", 1000))
		},
	}}
}
