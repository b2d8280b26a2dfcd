package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// batsSource is the variable that names a repository of podman's.
	batsSource = "PODMAN_SOURCE"
	// batsDir is where prepare.sh puts the tests of it.
	batsDir   = "/var/cache/epiphyte-interop/podman-tests"
	batsTests = batsDir + "/test/system/505-networking-pasta.bats"
	// batsImage is what those tests call their image, where batsRegistry is where it is from.
	batsImage    = batsRegistry + "/libpod/testimage:20241011"
	batsRegistry = "localhost"
)

// pastaBatsSuite: what podman's developers hold pasta against.
func pastaBatsSuite() suite {
	const batsTime = 20 * time.Minute // for some 90 tests that wait for seconds
	return podman5.suite(check{
		name: "pasta-bats/podman", says: "podman's own tests of pasta", limit: batsTime,
		needs: []need{program("bats", "socat", "jq"), func(context.Context, *machine) string {
			if os.Getenv(batsSource) == "" {
				return batsSource + " names no repository of podman's"
			}
			if err := unix.Access(batsTests, unix.R_OK); err != nil {
				return fmt.Sprintf("%s: %v", batsTests, err)
			}
			return ""
		}},
		run: func(ctx context.Context, m *machine) error {
			archive, err := exec.CommandContext(ctx, "tar", "-c", "-C", batsDir+"/image/root", ".").Output()
			if err != nil {
				return fmt.Errorf("make image: %w", err)
			}
			cmd := m.command(ctx, nil, "podman", "import", "--quiet", "--change=WORKDIR /home/podman", "-", batsImage)
			cmd.Stdin = bytes.NewReader(archive)
			if _, err := output(cmd); err != nil {
				return err
			}
			env := []string{"PODMAN=" + m.tree + "/usr/bin/podman", "BATS_TMPDIR=" + homeDir + "/tmp", "PODMAN_TEST_IMAGE_REGISTRY=" + batsRegistry}
			var out bytes.Buffer
			cmd = m.command(ctx, env, "bats", "--tap", batsTests)
			cmd.Stdout = io.MultiWriter(&out, os.Stdout) // it takes minutes
			cmd.Stderr = cmd.Stdout
			err = cmd.Run()
			var failures []string
			for line := range strings.Lines(out.String()) {
				if strings.HasPrefix(line, "not ok ") {
					failures = append(failures, strings.TrimSpace(line))
				}
			}
			if len(failures) > 0 {
				return fmt.Errorf("%d tests failed:\n%s", len(failures), strings.Join(failures, "\n"))
			}
			return err
		},
	})
}
