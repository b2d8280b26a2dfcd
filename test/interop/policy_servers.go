package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/test/harness"
)

// Keys of the user and of sshd, and what the user knows of it.
const (
	sshKey   = policyDir + "/ssh/key"
	sshHost  = policyDir + "/ssh/host"
	sshKnown = policyDir + "/ssh/known"
)

// serveSSH starts sshd outside, which lets the user in by a key.
func serveSSH(ctx context.Context, m *machine) (io.Closer, error) {
	const script = `mkdir ssh
ssh-keygen -q -t ed25519 -N '' -f ` + sshKey + `
ssh-keygen -q -t ed25519 -N '' -f ` + sshHost + `
(printf 'ssh.policy.test '; cat ` + sshHost + `.pub) >` + sshKnown
	cmd := m.command(ctx, nil, "sh", "-ec", script)
	cmd.Dir = policyDir
	if _, err := output(cmd); err != nil {
		return nil, err
	}
	config := policyDir + "/ssh/config"
	if err := errors.Join(os.Chown(sshHost, 0, 0), os.MkdirAll("/run/sshd", 0o755), give(config, fmt.Sprintf(`ListenAddress %s:22
ListenAddress [%s]:22
HostKey %s
AuthorizedKeysFile %s.pub
PidFile none
StrictModes no
UsePAM no
`, outsideIPv4, outsideIPv6, sshHost, sshKey), 0o644)); err != nil {
		return nil, err
	}
	path, err := m.find("sshd") // it wants to be called by its path
	if err != nil {
		return nil, err
	}
	server := m.command(context.Background(), nil, path, "-D", "-e", "-f", config)
	server.SysProcAttr.Credential = nil
	return serveOutside(ctx, m, server, "22")
}

// postgresProgram is the path of one of PostgreSQL's own programs, the newest's.
func postgresProgram(name string) (string, error) {
	paths, err := filepath.Glob("/usr/lib/postgresql/*/bin/" + name)
	if err == nil && len(paths) == 0 {
		err = fmt.Errorf("%s: %w", name, os.ErrNotExist)
	}
	if err != nil {
		return "", err
	}
	return paths[len(paths)-1], nil
}

func postgresInstalled(context.Context, *machine) string {
	if _, err := postgresProgram("initdb"); err != nil {
		return "postgresql is not installed"
	}
	return ""
}

// servePostgres starts a database outside, which trusts whom it hears by TLS.
func servePostgres(ctx context.Context, m *machine) (io.Closer, error) {
	if _, err := certify(); err != nil {
		return nil, err
	}
	initdb, err := postgresProgram("initdb")
	if err != nil {
		return nil, err
	}
	postgres, err := postgresProgram("postgres")
	if err != nil {
		return nil, err
	}
	const data = policyDir + "/data"
	if _, err := m.do(ctx, initdb, "-D", data, "--no-sync", "--auth=reject", "--username="+userName); err != nil {
		return nil, err
	}
	if err := give(data+"/pg_hba.conf", "hostssl all all all trust\n", 0o600); err != nil {
		return nil, err
	}
	return serveOutside(ctx, m, m.command(context.Background(), nil, postgres, "-D", data, "-k", "", "-c", "fsync=off",
		"-c", "listen_addresses="+outsideIPv4+","+outsideIPv6, "-c", "ssl=on", "-c", "ssl_cert_file="+certFile, "-c", "ssl_key_file="+keyFile), "5432")
}

// serveOutside starts a server in the namespace outside and waits until it can be reached.
func serveOutside(ctx context.Context, m *machine, server *exec.Cmd, port string) (io.Closer, error) {
	s, err := startSession(server, m.net.outside.Start)
	if err != nil {
		return nil, err
	}
	err = harness.Eventually(20*time.Second, func() error {
		c, err := m.net.fromOutside(ctx, "tcp", net.JoinHostPort(outsideIPv4, port))
		if err == nil {
			c.Close()
		}
		return errors.Join(err, s.alive())
	})
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// Close ends a server.
func (s *session) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return s.end(ctx, unix.SIGTERM)
}
