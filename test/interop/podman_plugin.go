package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"epiphyte/test/harness"
)

const (
	// newestRoot is where prepare.sh unpacks a podman that knows network plugins.
	newestRoot = "/var/cache/epiphyte-interop/root"
	pluginDir  = "/tmp/plugins" // the helper as podman's network plugin
	helperDir  = "/tmp/helpers" // and as its rootlessport
	rootDir    = "/tmp/root"    // of podman run by root
)

// driver is a podman whose networks are ours, run by the plain user or by root.
type driver struct {
	*machine
	root bool
}

// do runs a command as the driver's user.
func (d *driver) do(ctx context.Context, argv ...string) (string, error) {
	env := []string{"CONTAINERS_CONF=" + d.conf(), "PATH=" + binDir + ":" + searchPath}
	if d.root {
		env = append(env, "HOME="+rootDir, "XDG_RUNTIME_DIR=", "CONTAINERS_STORAGE_CONF="+rootDir+"/storage.conf")
	}
	path := argv[0]
	switch path {
	case "podman":
		path = d.podman()
	case "epiphyte":
		path = d.helper
	}
	cmd := d.command(ctx, env, append([]string{path}, argv[1:]...)...)
	if d.root {
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	}
	return output(cmd)
}

// podman is the newest that there is.
func (d *driver) podman() string {
	path := newestRoot + "/usr/bin/podman"
	if unix.Access(path, unix.X_OK) != nil {
		path, _ = d.find("podman") // a need of the suite
	}
	return path
}

// conf is the path of the driver's containers.conf.
func (d *driver) conf() string {
	if d.root {
		return rootDir + "/containers.conf"
	}
	return confDir + "/plugin.conf"
}

// configure makes the plugin's directory and podman's configuration.
func (d *driver) configure() error {
	text := fmt.Sprintf(`[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
enable_port_reservation = false
helper_binaries_dir = [%q, "%[3]s/usr/libexec/podman", "%[3]s/usr/lib/podman", "%[3]s/usr/bin", "/usr/lib/podman", "/usr/bin"]
conmon_path = ["%[3]s/usr/bin/conmon", "/usr/bin/conmon"]
runtime = "crun"
[engine.runtimes]
crun = ["%[3]s/usr/bin/crun", "/usr/bin/crun"]
[containers]
cgroups = "disabled"
[network]
network_backend = "netavark"
netavark_plugin_dirs = [%[2]q]
`, helperDir, pluginDir, newestRoot)
	if d.root {
		text += fmt.Sprintf("network_config_dir = %q\n", rootDir+"/networks")
	}
	for _, dir := range []string{pluginDir, helperDir, rootDir} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	storage := fmt.Sprintf("[storage]\ndriver = \"vfs\"\ngraphroot = %q\nrunroot = %q\n", rootDir+"/containers", "/run/containers/storage")
	return errors.Join(
		link(d.helper, pluginDir+"/epiphyte"), link(d.helper, helperDir+"/rootlessport"),
		os.WriteFile(d.conf(), []byte(text), 0o644),
		os.WriteFile(rootDir+"/storage.conf", []byte(storage), 0o644))
}

// link makes a symbolic link that may be there already.
func link(to, path string) error {
	if err := os.Symlink(to, path); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return nil
}

// pluginSuite: networks whose driver is ours.
func pluginSuite(name string, root bool) suite {
	of := func(m *machine) *driver { return &driver{m, root} }
	s := suite{
		needs: append(podmanNeeds(), beyond, works("a podman that knows network plugins, as in "+name, func(ctx context.Context, m *machine) error {
			return of(m).works(ctx)
		})),
		clean: func(ctx context.Context, m *machine) error { return of(m).clean(ctx) },
	}
	for _, c := range pluginChecks(root) {
		s.checks = append(s.checks, check{
			name: name + "/" + c.name, says: c.says, needs: c.needs,
			run: func(ctx context.Context, m *machine) error { return c.run(ctx, of(m)) },
		})
	}
	return s
}

// pluginCheck is a check of both users.
type pluginCheck struct {
	name, says string
	run        func(context.Context, *driver) error
	needs      []need
}

// works asks for what the checks cannot do without, of a plugin that is not ours.
func (d *driver) works(ctx context.Context) error {
	if err := d.configure(); err != nil {
		return err
	}
	if err := d.importArchive(ctx); err != nil {
		return err
	}
	if _, err := d.do(ctx, "podman", "run", "--rm", "--network=none", image, "true"); err != nil {
		return err
	}
	if err := os.WriteFile(pluginDir+"/echo", []byte("#!/bin/sh\nexec cat\n"), 0o755); err != nil {
		return err
	}
	if _, err := d.do(ctx, "podman", "network", "create", "--driver=echo", "--subnet=10.77.7.0/24", "try"); err != nil {
		return err
	}
	_, err := d.do(ctx, "podman", "network", "rm", "try")
	return err
}

func (d *driver) importArchive(ctx context.Context) error {
	b, err := rootfs()
	if err != nil {
		return fmt.Errorf("make image: %w", err)
	}
	const path = "/tmp/image.tar"
	if err := os.WriteFile(path, b, 0o644); err != nil {
		return err
	}
	_, err = d.do(ctx, "podman", "import", "--quiet", path, image)
	return errors.Join(err, os.Remove(path))
}

// clean removes containers and networks, podman's and ours.
func (d *driver) clean(ctx context.Context) error {
	_, err := d.do(ctx, "podman", "rm", "--all", "--force", "--time=0")
	for _, list := range [][]string{
		{"podman", "network", "ls", "--quiet", "--filter=driver=epiphyte"},
		{"epiphyte", "network", "ls", "--json"},
	} {
		out, lsErr := d.do(ctx, list...)
		err = errors.Join(err, lsErr)
		if list[0] == "epiphyte" {
			out = strings.Join(namesIn(out), " ")
		}
		if names := strings.Fields(out); len(names) > 0 {
			_, rmErr := d.do(ctx, append([]string{list[0], "network", "rm", "--force"}, names...)...)
			err = errors.Join(err, rmErr)
		}
	}
	return errors.Join(err, d.noHelpers())
}

// create creates a network.
func (d *driver) create(ctx context.Context, name string, flags ...string) error {
	argv := append([]string{"podman", "network", "create", "--driver=epiphyte"}, flags...)
	_, err := d.do(ctx, append(argv, name)...)
	return err
}

// serve starts a container that serves port 80 and waits for its server.
func (d *driver) serve(ctx context.Context, name string, flags ...string) error {
	argv := append([]string{"podman", "run", "--detach", "--name=" + name, "--stop-signal=TERM"}, flags...)
	if _, err := d.do(ctx, append(argv, image, "probe", "serve", "80")...); err != nil {
		return err
	}
	return d.awaitServer(ctx, name)
}

// awaitServer waits until a container's server answers in the container.
func (d *driver) awaitServer(ctx context.Context, name string) error {
	return harness.Eventually(waitTime, func() error {
		_, err := d.do(ctx, "podman", "exec", name, "probe", "tcp", "127.0.0.1:80")
		return err
	})
}

// exec runs a probe in a container.
func (d *driver) exec(ctx context.Context, name string, argv ...string) (string, error) {
	return d.do(ctx, append([]string{"podman", "exec", name, "probe"}, argv...)...)
}

// processes gives the pids of the networks' workers, and how many processes of ours run
// in all.
func (d *driver) processes() (workers []int, all int, err error) {
	pids, err := d.helpers()
	for _, pid := range pids {
		argv, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err == nil && string(argv) == "epiphyte-network\x00" {
			workers = append(workers, pid)
		}
	}
	return workers, len(pids), err
}

// awaitProcesses waits until as many workers and processes in all run.
func (d *driver) awaitProcesses(workers, all int) error {
	const lingerTime = 10 * waitTime / 5
	return harness.Eventually(lingerTime, func() error {
		w, n, err := d.processes()
		if err == nil && (len(w) != workers || n != all) {
			err = fmt.Errorf("%d workers of %d processes, want %d of %d", len(w), n, workers, all)
		}
		return err
	})
}

// definitions are the files of networks that the user has.
func (d *driver) definitions() ([]string, error) {
	dir := homeDir
	if d.root {
		dir = rootDir
	}
	return filepath.Glob(dir + "/.config/epiphyte/networks/*.json")
}
