package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"epiphyte/test/harness"
)

// userName is who the runner's uid is, to programs that ask.
const userName = "bench"

// nameUser gives the uid a name, which initdb(1) insists on. It is seen in this mount
// namespace alone.
func nameUser() error {
	text, err := os.ReadFile("/etc/passwd")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("name user: %w", err)
	}
	ours := scratch("passwd")
	text = append(fmt.Appendf(nil, "%s:x:%d:%d::%s:/bin/sh\n", userName, os.Getuid(), os.Getgid(), os.TempDir()), text...)
	if err := os.WriteFile(ours, text, 0o644); err != nil {
		return err
	}
	if err := unix.Mount(ours, "/etc/passwd", "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("hide /etc/passwd: %w", err)
	}
	return nil
}

// fillFiles makes what nginx serves. The large one is read once, so that no sample waits
// for the disk.
func fillFiles(dir string) error {
	if err := os.WriteFile(filepath.Join(dir, "index.html"), bytes.Repeat([]byte("hello\n"), 100), 0o600); err != nil {
		return err
	}
	large, err := os.Create(filepath.Join(dir, "large"))
	if err != nil {
		return err
	}
	defer large.Close()
	if err := large.Truncate(256e6); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, large)
	return err
}

// fillDatabase makes a cluster with what pgbench reads: a hundred thousand accounts.
// Whoever reaches it may read it.
func (s *scene) fillDatabase(ctx context.Context) error {
	return fillOnce("database", func(dir string) error {
		if err := s.tool(ctx, "initdb", "-N", "-A", "trust", "-U", userName, "-D", dir); err != nil {
			return err
		}
		hba, err := os.OpenFile(filepath.Join(dir, "pg_hba.conf"), os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			return err
		}
		_, err = hba.WriteString("host all all 0.0.0.0/0 trust\n")
		if err := errors.Join(err, hba.Close()); err != nil {
			return err
		}
		server, err := startProgram(s.host, "postgres", "-D", dir, "-h", "", "-k", dir, "-F")
		if err != nil {
			return err
		}
		defer server.kill()
		ready := func() error { return s.tool(ctx, "pg_isready", "-q", "-h", dir) }
		if err := harness.Eventually(defaultPatience, ready); err != nil {
			return fmt.Errorf("%w: %s", err, server.output())
		}
		// Each server that starts with it is killed, and begins where the last checkpoint was.
		return errors.Join(
			s.tool(ctx, "pgbench", "-i", "-q", "-h", dir, "-U", userName, "postgres"),
			s.tool(ctx, "psql", "-q", "-h", dir, "-U", userName, "-c", "checkpoint", "postgres"))
	})
}

// fillRepository makes one of files that do not compress.
func (s *scene) fillRepository(ctx context.Context) error {
	const files, size = 200, 50e3
	return fillOnce("repository", func(dir string) error {
		b := make([]byte, size)
		for i := range files {
			rand.Read(b)
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("file%d", i)), b, 0o600); err != nil {
				return err
			}
		}
		git := func(args ...string) error {
			return s.tool(ctx, append([]string{"git", "-C", dir, "-c", "user.name=" + userName, "-c", "user.email=bench@example.com"}, args...)...)
		}
		for _, step := range [][]string{{"init", "-q"}, {"add", "."}, {"commit", "-q", "-m", "files"}, {"repack", "-q", "-a", "-d"}} {
			if err := git(step...); err != nil {
				return err
			}
		}
		return nil
	})
}
