package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"epiphyte/test/harness"
)

const (
	managerProgram = "/lib/systemd/systemd"
	// bootedDir says that there is systemd (sd_booted(3)).
	bootedDir = "/run/systemd/system"
	unitFile  = "docs/epiphyte-network@.service"
)

// manager is the user's service manager.
type manager struct {
	*session
	cgroup string
}

// needsManager is the need for a service manager that could run here.
func needsManager(context.Context, *machine) string {
	for _, path := range []string{managerProgram, unitFile} {
		if err := unix.Access(path, unix.R_OK); err != nil {
			return fmt.Sprintf("%s: %v", path, err)
		}
	}
	return ""
}

// startManager starts it, with the unit of networks, in control groups of its own.
func (d *driver) startManager(ctx context.Context) (_ *manager, err error) {
	unit, err := os.ReadFile(unitFile)
	if err != nil {
		return nil, err
	}
	const dir = homeDir + "/.config/systemd/user"
	text := strings.ReplaceAll(string(unit), "@PREFIX@/bin/epiphyte", d.helper)
	if _, err := d.do(ctx, "mkdir", "-p", dir); err != nil {
		return nil, err
	}
	if err := errors.Join(
		os.WriteFile(filepath.Join(dir, filepath.Base(unitFile)), []byte(text), 0o644),
		os.MkdirAll(bootedDir, 0o755)); err != nil {
		return nil, err
	}
	m := &manager{}
	if m.cgroup, err = os.MkdirTemp("/sys/fs/cgroup", "epiphyte-interop-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.end(ctx))
		}
	}()
	for _, path := range []string{m.cgroup, m.cgroup + "/cgroup.procs", m.cgroup + "/cgroup.subtree_control"} {
		if err := os.Chown(path, userID, userID); err != nil {
			return nil, err
		}
	}
	group, err := os.Open(m.cgroup)
	if err != nil {
		return nil, err
	}
	defer group.Close()
	cmd := d.command(context.Background(), nil, managerProgram, "--user", "--log-target=console")
	cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(group.Fd())
	if m.session, err = startSession(cmd, (*exec.Cmd).Start); err != nil {
		return nil, err
	}
	return m, harness.Eventually(2*waitTime, func() error {
		if err := m.alive(); err != nil {
			return err
		}
		_, err := d.do(ctx, "systemctl", "--user", "show-environment")
		return err
	})
}

// end ends the manager and all that it has started.
func (m *manager) end(ctx context.Context) error {
	var err error
	if m.session != nil {
		err = m.session.end(ctx, syscall.SIGTERM)
	}
	err = errors.Join(err, os.RemoveAll(filepath.Dir(bootedDir)))
	return errors.Join(err, harness.Eventually(waitTime, func() error { return removeGroups(m.cgroup) }))
}

// removeGroups removes a control group and those below, in which no process is left.
func removeGroups(top string) error {
	var dirs []string
	err := filepath.WalkDir(top, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() {
			dirs = append(dirs, path)
		}
		return err
	})
	for _, dir := range slices.Backward(dirs) {
		err = errors.Join(err, unix.Rmdir(dir))
	}
	return err
}

// pluginManager: what a reboot leaves of a network is its definition.
func pluginManager(ctx context.Context, d *driver) (err error) {
	m, err := d.startManager(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.end(ctx)) }()
	const unit = "epiphyte-network@web"
	active := func() error {
		_, err := d.do(ctx, "systemctl", "--user", "is-active", unit)
		return err
	}
	if err := first(d.create(ctx, "web"), active()); err != nil {
		return err
	}
	if _, err := d.do(ctx, "systemctl", "--user", "stop", unit); err != nil {
		return err
	}
	err = first(d.helperCount(0), d.serve(ctx, "one", "--network=web"), active(), d.isMembers(ctx, "web", "one"))
	return errors.Join(err, d.clean(ctx))
}
