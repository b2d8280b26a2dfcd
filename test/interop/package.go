package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// What prepare.sh makes for the suite: a Debian without anything of ours, and the packages.
const (
	debianTree  = "/var/cache/epiphyte-interop/debian"
	packagesDir = "/var/cache/epiphyte-interop/packages"
)

// freshDir is the copy of the tree that the checks change.
const freshDir = "/tmp/fresh"

// packageSuite does what a new user of a fresh Debian does, one thing after the other.
func packageSuite() suite {
	s := suite{
		needs: []need{beyond, freshDebian},
		checks: []check{
			{name: "package/lintian", says: "lintian has no complaint about the package that would be an error", needs: []need{program("lintian")}, run: packageLintian, limit: 4 * checkTime},
			{name: "package/install", says: "dpkg installs the package, and the program is there", run: installPackage},
			{name: "package/doctor", says: "a new user hears that a guest can run, and of each lack who mends it", run: packageDoctor},
			{name: "package/first-guest", says: "the new user's first guest has a network", run: packageGuest},
			{name: "package/pasta", says: "linked to that name the program stands in for pasta", run: packagePasta},
			{name: "package/manual", says: "manual pages and completions are where programs look", run: packageManual},
		},
		clean: func(_ context.Context, m *machine) error {
			own := *m
			own.helper = freshDir + "/usr/bin/epiphyte"
			if _, err := os.Stat(own.helper); err != nil {
				return nil
			}
			return own.noHelpers()
		},
		end: func(context.Context, *machine) error {
			for _, dir := range []string{"/dev/net/tun", "/proc", "/sys"} {
				unix.Unmount(freshDir+dir, unix.MNT_DETACH)
			}
			return os.RemoveAll(freshDir)
		},
	}
	s.checks = append(s.checks, packagePodman()...)
	s.checks = append(s.checks, check{name: "package/upgrade-remove", says: "a second installation goes on, and a purge leaves nothing", run: removePackage})
	return s
}

// packageLintian is the distribution's checker of packages, on the one to be installed.
func packageLintian(ctx context.Context, m *machine) error {
	debs, err := filepath.Glob(packagesDir + "/epiphyte_*_amd64.deb")
	if err != nil || len(debs) != 1 {
		return fmt.Errorf("%d packages in %s", len(debs), packagesDir)
	}
	_, err = m.do(ctx, "lintian", "--fail-on", "error", debs[0])
	return err
}

// freshDebian copies the tree, once.
func freshDebian(_ context.Context, _ *machine) string {
	if _, err := os.Stat(freshDir); err == nil {
		return ""
	}
	if _, err := os.Stat(debianTree + "/usr/bin/dpkg"); err != nil {
		return "no Debian tree: make interop CHECKS='package/*' fetches one, by debootstrap"
	}
	if err := makeFresh(); err != nil {
		return err.Error()
	}
	return ""
}

func makeFresh() error {
	if out, err := exec.Command("cp", "-a", debianTree, freshDir).CombinedOutput(); err != nil {
		return fmt.Errorf("copy %s: %w: %s", debianTree, err, out)
	}
	debs, _ := filepath.Glob(packagesDir + "/epiphyte_*_amd64.deb")
	if len(debs) != 1 {
		return fmt.Errorf("%d packages in %s", len(debs), packagesDir)
	}
	deb, err := os.ReadFile(debs[0])
	if err != nil {
		return err
	}
	if err := os.MkdirAll(freshDir+"/dev/net", 0o755); err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(freshDir+"/root/epiphyte.deb", deb, 0o644),
		os.WriteFile(freshDir+"/dev/net/tun", nil, 0o666),
		unix.Mount("/dev/net/tun", freshDir+"/dev/net/tun", "", unix.MS_BIND, ""),
		unix.Mount("/proc", freshDir+"/proc", "", unix.MS_BIND|unix.MS_REC, ""),
		os.WriteFile(freshDir+"/etc/resolv.conf", []byte("nameserver "+resolverIPv4+"\n"), 0o644),
		readyForContainers())
}

// inFresh runs a script there, as root or as the new user, and gives what it printed. The
// tree is the root of a mount namespace, not of a chroot alone, which the kernel allows no
// user namespaces in.
func inFresh(ctx context.Context, user, script string) (string, error) {
	const enter = `mount --rbind "$0" "$0"; cd "$0"; mkdir -p old; pivot_root . old; umount -l /old; rmdir /old 2>/dev/null || true; mount --make-rshared /; `
	become := `exec sh -c "$1"`
	if user != "" {
		become = `exec su - "$2" -c "$1"`
	}
	cmd := exec.CommandContext(ctx, "unshare", "--mount", "--propagation", "private", "sh", "-ec", enter+become, freshDir, script, user)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s: %w: %s", script, err, out)
	}
	return string(out), err
}

const freshUser = "newcomer"

func installPackage(ctx context.Context, _ *machine) error {
	if _, err := inFresh(ctx, "", "useradd --create-home --shell /bin/bash "+freshUser+" && find / -xdev | sort >/root/before && dpkg --install /root/epiphyte.deb"); err != nil {
		return err
	}
	out, err := inFresh(ctx, freshUser, "epiphyte version")
	return expect(out, err, "epiphyte version ")
}

func packageDoctor(ctx context.Context, _ *machine) error {
	out, err := inFresh(ctx, freshUser, "epiphyte doctor")
	return expect(out, err, "A guest can run.", "ok       guest:", "ok       subordinate ids:", "slirp4netns on PATH: nobody")
}

func packageGuest(ctx context.Context, _ *machine) error {
	out, err := inFresh(ctx, freshUser, "epiphyte run -- sh -c 'ip -brief address show tap0; cat /etc/resolv.conf; ping -c 1 10.0.2.2'")
	return expect(out, err, "10.0.2.100/24", "nameserver 10.0.2.3", "1 received")
}

func packagePasta(ctx context.Context, _ *machine) error {
	if _, err := inFresh(ctx, "", "mkdir -p /usr/local/libexec/podman && ln -s /usr/bin/epiphyte /usr/local/libexec/podman/pasta"); err != nil {
		return err
	}
	out, err := inFresh(ctx, freshUser, "/usr/local/libexec/podman/pasta --config-net -- ip -brief address")
	if _, err := inFresh(ctx, "", "rm -r /usr/local/libexec"); err != nil {
		return err
	}
	return expect(out, err, "198.51.100.9")
}

func packageManual(ctx context.Context, _ *machine) error {
	out, err := inFresh(ctx, freshUser, "zcat /usr/share/man/man1/epiphyte.1.gz | head -n 5; bash -c '"+
		`. /usr/share/bash-completion/completions/epiphyte; COMP_WORDS=(epiphyte doc); COMP_CWORD=1; _epiphyte; echo "${COMPREPLY[@]}"'`)
	return expect(out, err, `.TH "EPIPHYTE" "1"`, "doctor")
}

func removePackage(ctx context.Context, _ *machine) error {
	const left = `dpkg --purge epiphyte && find / -xdev | sort >/root/after && comm -13 /root/before /root/after`
	if _, err := inFresh(ctx, "", "dpkg --install /root/epiphyte.deb"); err != nil {
		return err
	}
	out, err := inFresh(ctx, "", "dpkg --remove epiphyte && dpkg --install /root/epiphyte.deb && "+left)
	if err != nil {
		return err
	}
	for line := range strings.Lines(out) {
		if path := strings.TrimSpace(line); strings.HasPrefix(path, "/usr/") || strings.HasPrefix(path, "/etc/") {
			return fmt.Errorf("left behind: %s", path)
		}
	}
	return nil
}

// expect wants a command to have succeeded and printed all of these.
func expect(out string, err error, want ...string) error {
	if err != nil {
		return err
	}
	for _, w := range want {
		if !strings.Contains(out, w) {
			return fmt.Errorf("%q is not in:\n%s", w, out)
		}
	}
	return nil
}
