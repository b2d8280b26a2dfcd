package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// policyDir is where a client's files are, its policies among them.
const policyDir = homeDir + "/policy"

// atOnce is how much longer than to work a client may take to fail where a rule is missing:
// less than any of them waits for an answer that does not come.
const atOnce = 4 * time.Second

// client is a program that is used inside a guest, whose policy is learned.
type client struct {
	name, says string
	needs      []need
	// serve starts its servers and writes its files below policyDir.
	serve func(context.Context, *machine) (io.Closer, error)
	// script uses it; every run begins as the first one did.
	script string
	// rules are what suggest prints.
	rules []string
}

// policySuite: what users run in a guest under a policy, with the rules that learn and
// suggest make, and with one rule less.
func policySuite() suite {
	s := suite{
		needs: []need{beyond},
		clean: func(_ context.Context, m *machine) error { return errors.Join(os.RemoveAll(policyDir), m.noHelpers()) },
	}
	for _, c := range clients() {
		s.checks = append(s.checks, check{
			name: "policy/" + c.name, says: c.says, needs: c.needs, run: c.run, limit: 2 * time.Minute,
		})
	}
	return s
}

// run learns the policy of a client and holds it against what it must be.
func (c client) run(ctx context.Context, m *machine) error {
	if err := errors.Join(os.MkdirAll(policyDir, 0o755), os.Chown(policyDir, userID, userID)); err != nil {
		return err
	}
	server, err := c.serve(ctx, m)
	if err != nil {
		return fmt.Errorf("serve: %w", err)
	}
	defer server.Close()
	log := policyDir + "/log.json"
	if err := c.under(ctx, m, "default deny\nlearn\n", "--policy-log="+log); err != nil {
		return fmt.Errorf("learn: %w", err)
	}
	suggested, err := m.do(ctx, m.helper, "policy", "suggest", log)
	if err != nil {
		return err
	}
	rules := strings.Split(suggested, "\n")
	if !slices.Equal(rules, c.rules) {
		return fmt.Errorf("suggested\n%s\nwant\n%s", suggested, strings.Join(c.rules, "\n"))
	}
	begin := time.Now()
	if err := c.under(ctx, m, suggested); err != nil {
		return fmt.Errorf("with the rules suggested: %w", err)
	}
	worked := time.Since(begin)
	for i, rule := range rules {
		// What is left may be nothing, which would allow everything.
		less := "default deny\n" + strings.Join(slices.Delete(slices.Clone(rules), i, i+1), "\n")
		begin := time.Now()
		if err := c.under(ctx, m, less); err == nil {
			return fmt.Errorf("it works without %q", rule)
		}
		if took := time.Since(begin); took > worked+atOnce {
			return fmt.Errorf("without %q it fails after %v, with it works in %v", rule, took, worked)
		}
	}
	return nil
}

// under runs the client in a guest with a policy.
func (c client) under(ctx context.Context, m *machine, policy string, flags ...string) error {
	file := policyDir + "/policy"
	if err := os.WriteFile(file, []byte(policy), 0o644); err != nil {
		return err
	}
	// So that what an earlier run has left tells nothing.
	work := policyDir + "/here"
	if err := errors.Join(os.RemoveAll(work), os.Mkdir(work, 0o755), os.Chown(work, userID, userID)); err != nil {
		return err
	}
	argv := append([]string{m.helper, "run", "--policy=" + file}, flags...)
	cmd := m.command(ctx, []string{"CA=" + caFile}, append(argv, "--", "sh", "-ec", c.script)...)
	cmd.Dir = work
	_, err := output(cmd)
	return err
}

// give writes a file of the user's.
func give(path, text string, mode os.FileMode) error {
	return errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), mode), os.Chown(path, userID, userID))
}

func clients() []client {
	return []client{{
		name: "curl", says: "curl by TLS",
		needs: []need{program("curl")}, serve: serveWeb,
		script: "test \"$(curl -sS --cacert $CA https://web.policy.test/)\" = hello",
		rules:  []string{"allow tcp web.policy.test:443"},
	}, {
		name: "git", says: "git clone by TLS",
		needs: []need{program("git")}, serve: serveGit,
		script: "git -c http.sslCAInfo=$CA clone -q https://git.policy.test/cgi/repository.git && test -s repository/file",
		rules:  []string{"allow tcp git.policy.test:443"},
	}, {
		name: "apt", says: "apt-get update from a mirror in the clear and another by TLS",
		needs: []need{program("apt-get", "apt-config")}, serve: serveApt,
		script: aptScript,
		rules:  []string{"allow tcp mirror.policy.test:80", "allow tcp security.policy.test:443"},
	}, {
		name: "npm", says: "npm install, whose packages are at another name than the registry",
		needs: []need{program("node", "npm")}, serve: serveNpm,
		script: npmScript,
		rules:  []string{"allow tcp packages.policy.test:443", "allow tcp registry.policy.test:443"},
	}, {
		name: "go", says: "go mod download from a module proxy",
		needs: []need{goInstalled}, serve: serveGo,
		script: goScript,
		rules:  []string{"allow tcp modules.policy.test:443"},
	}, {
		name: "ssh", says: "ssh, whose server speaks first",
		needs: []need{program("ssh", "ssh-keygen", "sshd")}, serve: serveSSH,
		script: "test \"$(ssh -F none -i " + sshKey + " -o BatchMode=yes -o UserKnownHostsFile=" + sshKnown + " " + userName + "@ssh.policy.test echo hello)\" = hello",
		rules:  []string{"allow tcp ssh.policy.test:22"},
	}, {
		name: "psql", says: "psql, which asks for TLS by a protocol of its own",
		needs: []need{program("psql"), postgresInstalled}, serve: servePostgres,
		script: "test \"$(PGSSLROOTCERT=$CA psql -Atc 'select 6*7' 'host=db.policy.test user=interop dbname=postgres sslmode=verify-full connect_timeout=30')\" = 42",
		rules:  []string{"allow tcp db.policy.test:5432"},
	}}
}
