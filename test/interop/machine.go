package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// The plain user of the machine, and the first of its 65536 subordinate ids.
const (
	userName = "interop"
	userID   = 61234
	firstSub = 200000
)

// Places of the machine; all are on its own tmpfs.
const (
	binDir     = "/tmp/bin"   // the helper and the probe
	pathDir    = "/tmp/path"  // the helper under slirp4netns's name
	pastaDir   = "/tmp/pasta" // under the names pasta and pesto
	homeDir    = "/tmp/home"  // the user's
	confDir    = "/tmp/conf"
	runtimeDir = "/run/user/interop"
	etcDir     = "/run/etc" // what is bound over files of /etc
)

// machine is what the checks run on: a host with a plain user, and a network.
type machine struct {
	helper  string // path of the helper that the callers are given
	ours    bool
	pasta   bool   // the helper is pasta itself
	help    string // what --help says, both streams
	version string // the first line of --version
	net     *network

	env    []string // variables that its commands get besides
	tree   string   // where its programs are looked for first; empty: nowhere else
	kitNet []string // RootlessKit with its network driver; nil: with slirp4netns

	tried  map[string]string // reasons by what [works] tried
	docker *dockerd          // nil until it is needed
}

// mounts gives the mount namespace what is the machine's own: /proc and /sys
// of its namespaces and empty places to write to.
func mounts() error {
	// Where /etc/resolv.conf leads must be known before /run is covered.
	resolv, err := filepath.EvalSymlinks("/etc/resolv.conf")
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("find the file that callers read nameservers from: %w", err)
	} else if err != nil {
		return err
	}
	programs := map[string][]byte{}
	helper := os.Getenv(envHelper)
	for _, path := range []string{helper, filepath.Join(filepath.Dir(helper), pestoName), "/proc/self/exe"} {
		b, err := os.ReadFile(path)
		switch {
		case err == nil:
			programs[filepath.Base(path)] = b
		case path == helper || !errors.Is(err, os.ErrNotExist):
			return err
		}
	}
	programs[probeName] = programs["exe"]
	delete(programs, "exe")
	// Private, so that nothing gets out; then shared among ourselves, as
	// container programs expect.
	for _, flag := range []uintptr{unix.MS_PRIVATE, unix.MS_SHARED} {
		if err := unix.Mount("", "/", "", unix.MS_REC|flag, ""); err != nil {
			return fmt.Errorf("change propagation of mounts: %w", err)
		}
	}
	for _, mt := range []struct{ fs, path, data string }{
		{"proc", "/proc", ""},
		{"sysfs", "/sys", ""},
		{"tmpfs", "/tmp", "mode=1777"},
		{"tmpfs", "/var/tmp", "mode=1777"},
		{"tmpfs", "/var/lib", "mode=755"},
		{"tmpfs", "/run", "mode=755"},
		{"tmpfs", "/dev/shm", "mode=1777"},
	} {
		if err := unix.Mount(mt.fs, mt.path, mt.fs, 0, mt.data); err != nil {
			return fmt.Errorf("mount %s: %w", mt.path, err)
		}
	}
	// Containers run without cgroups; that there is one tree of them at all is
	// what the programs ask for.
	if err := unix.Mount("cgroup2", "/sys/fs/cgroup", "cgroup2", 0, ""); err != nil {
		return fmt.Errorf("mount cgroups: %w", err)
	}
	if err := os.Mkdir(binDir, 0o755); err != nil {
		return err
	}
	for name, b := range programs {
		if err := os.WriteFile(filepath.Join(binDir, name), b, 0o755); err != nil {
			return err
		}
	}
	return files(resolv)
}

// files binds the machine's own versions over files of /etc.
func files(resolv string) error {
	if err := os.Mkdir(etcDir, 0o755); err != nil {
		return err
	}
	id := fmt.Sprintf("%s:%d:65536\n", userName, firstSub)
	for _, f := range []struct{ path, text string }{
		{"/etc/passwd", fmt.Sprintf("%s:x:%d:%d::%s:/bin/sh\n", userName, userID, userID, homeDir)},
		{"/etc/group", fmt.Sprintf("%s:x:%d:\n", userName, userID)},
		{"/etc/subuid", id},
		{"/etc/subgid", id},
	} {
		old, err := os.ReadFile(f.path)
		if err != nil {
			return err
		}
		if len(old) > 0 && !bytes.HasSuffix(old, []byte("\n")) {
			old = append(old, '\n')
		}
		if err := bind(f.path, append(old, f.text...)); err != nil {
			return err
		}
	}
	if _, err := os.Stat(resolv); err != nil { // it was below /run
		if err := os.MkdirAll(filepath.Dir(resolv), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(resolv, nil, 0o644); err != nil {
			return err
		}
	}
	return bind(resolv, fmt.Appendf(nil, "nameserver %s\n", resolverIPv4))
}

// bind makes a file read as text in this mount namespace.
func bind(path string, text []byte) error {
	own := filepath.Join(etcDir, filepath.Base(path))
	if err := os.WriteFile(own, text, 0o644); err != nil {
		return err
	}
	if err := unix.Mount(own, path, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s: %w", path, err)
	}
	return nil
}

// newMachine makes what the mounts do not: directories, configuration, network.
func newMachine(helper string) (*machine, error) {
	m := &machine{
		helper: filepath.Join(binDir, filepath.Base(helper)),
		ours:   filepath.Base(helper) == "epiphyte",
		pasta:  filepath.Base(helper) == pastaName,
		tried:  map[string]string{},
	}
	for _, dir := range []string{homeDir, runtimeDir, filepath.Join(homeDir, "tmp")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
		if err := os.Chown(dir, userID, userID); err != nil {
			return nil, err
		}
	}
	if err := os.Chmod(filepath.Dir(runtimeDir), 0o755); err != nil {
		return nil, err
	}
	if err := configure(m.helper); err != nil {
		return nil, err
	}
	help, err := exec.Command(m.helper, "--help").CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("%s --help: %w", helper, err)
	}
	version, err := exec.Command(m.helper, "--version").Output()
	if err != nil {
		return nil, fmt.Errorf("%s --version: %w", helper, err)
	}
	m.help = string(help)
	m.version, _, _ = strings.Cut(string(version), "\n")
	if m.net, err = newNetwork(); err != nil {
		return nil, err
	}
	return m, nil
}

func (m *machine) close() { m.net.close() }

// lists says whether --help mentions an option, as callers search for it.
func (m *machine) lists(option string) bool { return strings.Contains(m.help, option) }

// configure writes podman's configuration: the helper, no systemd, no kernel
// filesystem driver that a plain user may not mount.
func configure(helper string) error {
	if err := os.Mkdir(confDir, 0o755); err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(confDir+"/containers.conf", fmt.Appendf(nil, `[engine]
network_cmd_path = %q
cgroup_manager = "cgroupfs"
events_logger = "none"
[containers]
cgroups = "disabled"
`, helper), 0o644),
		os.WriteFile(confDir+"/storage.conf", fmt.Appendf(nil, `[storage]
driver = "vfs"
graphroot = %q
runroot = %q
`, homeDir+"/containers", runtimeDir+"/containers"), 0o644))
}
