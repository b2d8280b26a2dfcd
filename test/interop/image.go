package main

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
)

const (
	image      = "interop:1" // podman's name for it gains a localhost/
	busyboxApp = "/bin/busybox"
)

// applets are the names that the image's busybox goes by.
var applets = [...]string{"sh", "cat", "ip", "ping", "sleep", "true"}

// rootfs is an image's file system as a tar archive: busybox and the probe.
func rootfs() ([]byte, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, dir := range []string{"bin", "etc", "proc", "sys", "dev", "run", "tmp"} {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755}); err != nil {
			return nil, err
		}
	}
	for name, from := range map[string]string{
		"bin/busybox": busyboxApp,
		"bin/probe":   binDir + "/" + probeName,
	} {
		b, err := os.ReadFile(from)
		if err != nil {
			return nil, err
		}
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(b))}); err != nil {
			return nil, err
		}
		if _, err := w.Write(b); err != nil {
			return nil, err
		}
	}
	for _, a := range applets {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + a, Linkname: "busybox"}); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

// importImage gives a caller its image by the command, as in "podman import".
func (m *machine) importImage(ctx context.Context, env []string, argv ...string) error {
	b, err := rootfs()
	if err != nil {
		return fmt.Errorf("make image: %w", err)
	}
	cmd := m.command(ctx, env, append(argv, "-", image)...)
	cmd.Stdin = bytes.NewReader(b)
	_, err = output(cmd)
	return err
}

// staticBusybox is the need for a busybox that runs without libraries.
func staticBusybox(context.Context, *machine) string {
	b, err := os.ReadFile(busyboxApp)
	switch {
	case err != nil:
		return "busybox-static is not installed"
	case strings.Contains(string(b[:min(len(b), 4096)]), "ld-linux"):
		return "busybox is not static"
	}
	return ""
}
