package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/test/harness"
)

// startKit starts RootlessKit with its builtin port driver. The guest is one
// that it makes itself, with nothing but lo where its version allows: its port
// driver reaches servers by the guest's loopback, whatever the network. From
// version 3 on it keeps the client's address of TCP, by nft(8) or iptables(8).
func startKit(ctx context.Context, s *scene) (*helper, error) {
	dir, err := os.MkdirTemp("", "kit-")
	if err != nil {
		return nil, err
	}
	tidy := func() { os.RemoveAll(dir) }
	h, err := newKit(s, dir)
	if err != nil {
		tidy()
		return nil, err
	}
	if err := s.host.Start(h.cmd); err != nil {
		h.log.Close()
		tidy()
		return nil, fmt.Errorf("start %s: %w", s.peer.Label, err)
	}
	h.pid, h.clear = h.cmd.Process.Pid, tidy
	guest, err := h.kitGuest(ctx, s, filepath.Join(dir, "state"))
	if err != nil {
		defer h.kill()
		return nil, fmt.Errorf("%s is not ready: %w: %s", s.peer.Label, err, h.output())
	}
	s.servers = guest
	h.clear = func() {
		guest.Close()
		tidy()
	}
	return h, nil
}

// newKit prepares the process. Where the benchmark runs one uid is mapped and
// no setuid program works, so RootlessKit finds substitutes of newuidmap(1) and
// newgidmap(1) that map the one uid, as a plain user may.
func newKit(s *scene, dir string) (*helper, error) {
	for name, script := range map[string]string{
		"newuidmap": `echo "0 $3 1" >/proc/$1/uid_map`,
		"newgidmap": `echo deny >/proc/$1/setgroups && echo "0 $3 1" >/proc/$1/gid_map`,
		"getsubids": "echo '0: " + userName + " 100000 65536'",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
			return nil, err
		}
	}
	network := []string{"--net=none"}
	if strings.Contains(s.peer.Version, "version 1.") { // which has no such network
		network = []string{"--net=slirp4netns", "--disable-host-loopback", "--copy-up=/etc"}
	}
	args := slices.Concat([]string{"--state-dir=" + filepath.Join(dir, "state"), "--port-driver=builtin",
		fmt.Sprintf("--publish=0.0.0.0:%d:%d/%s", publishedPort, guestPort, s.published.proto())}, network, s.peer.Args)
	h, err := newHelper(s.peer.Path, append(args, "sleep", "infinity")...)
	if err != nil {
		return nil, err
	}
	h.cmd.Env = append(os.Environ(), "USER="+userName, "PATH="+strings.Join([]string{dir, os.Getenv("PATH"), "/usr/sbin", "/sbin"}, ":"))
	return h, nil
}

// kitGuest waits until the port is published, and opens the guest.
func (h *helper) kitGuest(ctx context.Context, s *scene, state string) (*harness.NetNS, error) {
	ctx, cancel := context.WithTimeout(ctx, defaultPatience)
	defer cancel()
	for err := s.publishes(); err != nil; err = s.publishes() {
		if dead := h.alive(); dead != nil {
			return nil, dead
		}
		if late := pause(ctx, 5*time.Millisecond); late != nil {
			return nil, errors.Join(err, late)
		}
	}
	text, err := os.ReadFile(filepath.Join(state, "child_pid"))
	if err != nil {
		return nil, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return nil, err
	}
	guest, err := s.env.NSOf(pid)
	if err != nil {
		return nil, err
	}
	if err := guest.Sysctl("net/ipv4/tcp_congestion_control", "reno"); err != nil {
		guest.Close()
		return nil, err
	}
	return guest, nil
}

// subordinateIDs gives the runner's uid subordinate ones on paper, which
// RootlessKit before version 2 insists on. It is seen in this mount namespace alone.
func subordinateIDs() error {
	text := fmt.Sprintf("%d:100000:65536\n", os.Getuid())
	ours := filepath.Join(os.TempDir(), "subid")
	if err := os.WriteFile(ours, []byte(text), 0o644); err != nil {
		return err
	}
	for _, path := range []string{"/etc/subuid", "/etc/subgid"} {
		if err := unix.Mount(ours, path, "", unix.MS_BIND, ""); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("hide %s: %w", path, err)
		}
	}
	return nil
}
