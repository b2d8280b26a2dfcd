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

// The names by which callers look for the helper.
const (
	pastaName = "pasta"
	pestoName = "pesto"
)

// Addresses that podman has pasta answer for.
const (
	pastaDNS  = "169.254.1.1"
	pastaHost = "169.254.1.2" // host.containers.internal
)

// nextRoot is where prepare.sh unpacks the podman that comes after the newest.
const nextRoot = "/var/cache/epiphyte-interop/next/root"

// engine is a podman that finds the helper as pasta.
type engine struct {
	name  string // of its files
	tree  string // where it is unpacked
	extra string // lines of [network] in its containers.conf
}

var (
	podman5 = engine{name: "pasta", tree: newestRoot}
	// podman6 has pesto change the ports of bridge networks, which is not its default yet.
	podman6 = engine{name: "pasta-next", tree: nextRoot, extra: `rootless_port_forwarder = "pasta"` + "\n"}
)

// on is the machine as the engine's user sees it.
func (e engine) on(m *machine) *machine {
	own := *m
	own.tree = e.tree
	own.env = []string{"CONTAINERS_CONF=" + e.conf(), "CONTAINERS_STORAGE_CONF=" + e.storage(), "BUILDAH_ISOLATION=rootless"}
	return &own
}

func (e engine) conf() string    { return confDir + "/" + e.name + ".conf" }
func (e engine) runroot() string { return runtimeDir + "/" + e.name }
func (e engine) storage() string { return confDir + "/" + e.name + "-storage.conf" }

// configure writes podman's configuration, with storage of its own: the next version
// does not read an older one's.
func (e engine) configure(m *machine) error {
	text := fmt.Sprintf(`[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
helper_binaries_dir = [%q, "%[2]s/usr/libexec/podman", "%[2]s/usr/lib/podman", "%[2]s/usr/bin"]
conmon_path = ["%[2]s/usr/bin/conmon"]
runtime = "crun"
[engine.runtimes]
crun = ["%[2]s/usr/bin/crun"]
[containers]
cgroups = "disabled"
[network]
network_backend = "netavark"
%[3]s`, pastaDir, e.tree, e.extra)
	storage := fmt.Sprintf("[storage]\ndriver = \"vfs\"\ngraphroot = %q\nrunroot = %q\n",
		homeDir+"/"+e.name, e.runroot())
	return errors.Join(m.pastaLinks(),
		os.WriteFile(e.conf(), []byte(text), 0o644),
		os.WriteFile(e.storage(), []byte(storage), 0o644))
}

// pastaLinks gives the helper the names that callers look for. pasta has a pesto beside it.
func (m *machine) pastaLinks() error {
	if err := os.MkdirAll(pastaDir, 0o755); err != nil {
		return err
	}
	pesto := m.helper
	if m.pasta {
		pesto = filepath.Join(binDir, pestoName)
	}
	return errors.Join(link(m.helper, pastaDir+"/"+pastaName), link(pesto, pastaDir+"/"+pestoName))
}

// suite is checks that are run with the engine's podman.
func (e engine) suite(checks ...check) suite {
	s := suite{
		needs: []need{
			pasta, program("newuidmap"), staticBusybox,
			func(context.Context, *machine) string {
				if unix.Access(e.tree+"/usr/bin/podman", unix.X_OK) != nil {
					return "no podman was fetched to " + e.tree
				}
				return ""
			},
			works("a container of the podman in "+e.tree, func(ctx context.Context, m *machine) error {
				if err := e.configure(m); err != nil {
					return err
				}
				return podmanWorks(ctx, e.on(m))
			}),
		},
		clean: func(ctx context.Context, m *machine) error { return pastaClean(ctx, e.on(m)) },
	}
	for _, c := range checks {
		run, needs := c.run, c.needs
		c.run = func(ctx context.Context, m *machine) error { return run(ctx, e.on(m)) }
		c.needs = nil
		for _, n := range needs {
			c.needs = append(c.needs, func(ctx context.Context, m *machine) string { return n(ctx, e.on(m)) })
		}
		s.checks = append(s.checks, c)
	}
	return s
}

// pastaClean removes pods and containers and looks for what their helpers left.
func pastaClean(ctx context.Context, m *machine) error {
	_, err := m.do(ctx, "podman", "pod", "rm", "--all", "--force", "--time=0")
	return errors.Join(err, podmanClean(ctx, m), nothingLeft(m))
}

// pastaSuite: one helper for each container, or pod, of the newest podman.
func pastaSuite() suite {
	var checks []check
	checks = append(checks, pastaNetwork()...)
	checks = append(checks, pastaOptions()...)
	checks = append(checks, pastaPolicy()...)
	checks = append(checks, pastaPorts()...)
	checks = append(checks, pastaLife()...)
	return podman5.suite(checks...)
}

// pastaRun runs one command in a container of its own and gives its output. options come
// after "pasta:"; without any the mode is podman's choice.
func pastaRun(ctx context.Context, m *machine, options string, argv ...string) (string, error) {
	args := []string{"podman", "run", "--rm"}
	if options != "" {
		args = append(args, "--network=pasta:"+options)
	}
	return m.do(ctx, append(append(args, image), argv...)...)
}

// pastaSays is the check that a command in a container of its own prints what it should.
func pastaSays(name, says, options, script string, want ...string) check {
	return check{name: "pasta/" + name, says: says, run: func(ctx context.Context, m *machine) error {
		out, err := pastaRun(ctx, m, options, "sh", "-c", script)
		return first(err, has(out, want...))
	}}
}

// pastaBeyond is a check of what pasta does not do.
func pastaBeyond(c check) check {
	c.needs = append(c.needs, beyond)
	return c
}

// peer is the line that the probe prints when a server sees it as addr.
func peer(addr string) string {
	return peerPrefix + strings.TrimSuffix(net.JoinHostPort(addr, "0"), "0")
}
