package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// podmanPage tells users how podman takes the program; what is in its blocks is done here.
const podmanPage = "docs/podman.md"

// packagePodman are the checks of the distribution's own podman on the installed package, as
// the new user sets it up.
func packagePodman() []check {
	podman := []need{staticBusybox, works("an image for the Debian's podman", importFresh)}
	pasta := append(podman, func(ctx context.Context, _ *machine) string {
		if out, err := inFresh(ctx, freshUser, "podman --version"); err != nil || !takesPasta(out) {
			return "it has no pasta: " + strings.TrimSpace(out)
		}
		return ""
	})
	return []check{
		{name: "package/podman-doctor", says: "doctor says what podman lacks, and its command mends that", needs: podman, run: freshDoctor},
		{name: "package/podman-out", says: "in slirp4netns's place: TCP to a server outside, and names", needs: podman, run: freshOut},
		{name: "package/podman-publish", says: "likewise: a published port shows the server its client's address", needs: podman, run: freshPublish},
		{name: "package/podman-pasta", says: "in pasta's place: TCP, names, and a published port's client", needs: pasta, run: freshPasta},
	}
}

// takesPasta reports whether a podman of that version can be told to use pasta (4.4).
func takesPasta(version string) bool {
	var major, minor int
	_, err := fmt.Sscanf(version, "podman version %d.%d", &major, &minor)
	return err == nil && (major > 4 || major == 4 && minor >= 4)
}

// machineConf is podman's configuration for a machine without control groups.
const machineConf = `[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
[containers]
cgroups = "disabled"
`

// readyForContainers gives the tree what a booted system has, and podman its configuration.
func readyForContainers() error {
	tree, err := rootfs()
	return errors.Join(err,
		unix.Mount("/sys", freshDir+"/sys", "", unix.MS_BIND|unix.MS_REC, ""),
		os.Chmod(freshDir+"/dev/shm", 0o777|os.ModeSticky),
		os.MkdirAll(freshDir+"/etc/containers", 0o755),
		os.WriteFile(freshDir+"/etc/containers/containers.conf", []byte(machineConf), 0o644),
		os.WriteFile(freshDir+"/etc/containers/storage.conf", []byte("[storage]\ndriver = \"vfs\"\n"), 0o644),
		os.WriteFile(freshDir+"/image.tar", tree, 0o644))
}

// importFresh gives the new user the image.
func importFresh(ctx context.Context, _ *machine) error {
	_, err := inFresh(ctx, freshUser, "podman import -q /image.tar "+image)
	return err
}

// documented returns the block of a document that contains a text.
func documented(page, text string) (string, error) {
	b, err := os.ReadFile(page)
	if err != nil {
		return "", err
	}
	for i, block := range strings.Split(string(b), "\n```") {
		if _, body, _ := strings.Cut(block, "\n"); i%2 == 1 && strings.Contains(body, text) {
			return body + "\n", nil
		}
	}
	return "", fmt.Errorf("%s has no block with %q", page, text)
}

// userConf gives the new user the configuration of podman that a document shows.
func userConf(ctx context.Context, text string) error {
	conf, err := documented(podmanPage, text)
	if err != nil {
		return err
	}
	_, err = inFresh(ctx, freshUser, "mkdir -p ~/.config/containers && cat >~/.config/containers/containers.conf <<'END'\n"+conf+"END")
	return err
}

// freshDoctor: without a helper podman is limited; the remedy is root's.
func freshDoctor(ctx context.Context, _ *machine) error {
	out, err := inFresh(ctx, freshUser, "epiphyte doctor")
	if err != nil {
		return err
	}
	_, remedy, found := strings.Cut(out, "podman: finds no ")
	if !found {
		return fmt.Errorf("nothing that podman lacks is in:\n%s", out)
	}
	_, remedy, _ = strings.Cut(remedy, "\n")
	remedy, _, _ = strings.Cut(remedy, "\n")
	_, remedy, found = strings.Cut(remedy, "as root: ")
	if !found {
		return fmt.Errorf("no command of root's after podman's lack in:\n%s", out)
	}
	if _, err := inFresh(ctx, "", remedy); err != nil {
		return err
	}
	defer inFresh(ctx, "", "rm -f /usr/local/bin/slirp4netns; rm -rf /usr/local/libexec")
	out, err = inFresh(ctx, freshUser, "epiphyte doctor | grep ' podman:'")
	return expect(out, err, "which is this program")
}

func freshOut(ctx context.Context, _ *machine) error {
	if err := userConf(ctx, "network_cmd_path"); err != nil {
		return err
	}
	out, err := inFresh(ctx, freshUser, "podman run --rm --network slirp4netns "+image+" sh -c 'probe tcp "+outside()+" 1048576; probe lookup "+serverName+"; cat /etc/resolv.conf'")
	return expect(out, err, peer(hostIPv4), outsideIPv4, "nameserver 10.0.2.3")
}

func freshPublish(ctx context.Context, m *machine) error {
	return freshServe(ctx, m, "--network slirp4netns:port_handler=slirp4netns")
}

// freshPasta follows the page: links where podman looks first, and no configuration.
func freshPasta(ctx context.Context, m *machine) error {
	links, err := documented(podmanPage, "ln -sf /usr/bin/epiphyte")
	if err != nil {
		return err
	}
	if _, err := inFresh(ctx, "", strings.ReplaceAll(links, "sudo ", "")); err != nil {
		return err
	}
	defer inFresh(ctx, "", "rm -r /usr/local/libexec")
	out, err := inFresh(ctx, freshUser, "rm -r ~/.config/containers; podman run --rm --network pasta "+image+" sh -c 'probe tcp "+outside()+" 1048576; probe lookup "+serverName+"'")
	if err := expect(out, err, peer(hostIPv4), outsideIPv4); err != nil {
		return err
	}
	return freshServe(ctx, m, "--network pasta")
}

// freshServe publishes a server of a container, and asks it from outside.
func freshServe(ctx context.Context, m *machine, network string) error {
	if _, err := inFresh(ctx, freshUser, "podman run --detach --stop-signal TERM "+network+" -p 8080:80 "+image+" probe serve 80"); err != nil {
		return err
	}
	x, err := reach(ctx, m.net.fromOutside, "tcp", net.JoinHostPort(hostIPv4, "8080"), 1000)
	if err == nil && x.peer != x.local {
		err = fmt.Errorf("client %s is seen as %s", x.local, x.peer)
	}
	_, err2 := inFresh(ctx, freshUser, "podman rm --all --force")
	return errors.Join(err, err2)
}
