package main

import (
	"context"
	"errors"
	"fmt"
	"os"
)

// usersSuite: programs that refuse to be root, and programs that give it up, in a guest.
func usersSuite() suite {
	return suite{
		needs: []need{beyond},
		checks: []check{
			{name: "users/initdb", says: "initdb and its server, which refuse root, are the user in a guest", needs: []need{postgresInstalled}, run: usersInitdb},
			{name: "users/sshd", says: "sshd in a guest becomes the user who logs in by a published port", needs: []need{program("ssh", "ssh-keygen", "sshd", "newuidmap")}, run: usersSSH},
			{name: "users/apt", says: "apt-get in a guest fetches as its own user, _apt", needs: []need{program("apt-get", "newuidmap")}, run: usersApt},
		},
		clean: func(_ context.Context, m *machine) error { return errors.Join(os.RemoveAll(policyDir), m.noHelpers()) },
	}
}

// inGuest runs a script of the user's in a guest, in a directory of its own.
func (m *machine) inGuest(ctx context.Context, script string, flags ...string) (string, error) {
	if err := errors.Join(os.MkdirAll(policyDir, 0o755), os.Chmod(homeDir, 0o711), os.Chown(policyDir, userID, userID)); err != nil {
		return "", err
	}
	cmd := m.command(ctx, []string{"CA=" + caFile}, append(append([]string{m.helper, "run", "--quiet"}, flags...), "--", "sh", "-ec", script)...)
	cmd.Dir = policyDir
	return output(cmd)
}

func usersInitdb(ctx context.Context, m *machine) error {
	initdb, err := postgresProgram("initdb")
	if err != nil {
		return err
	}
	ctl, err := postgresProgram("pg_ctl")
	if err != nil {
		return err
	}
	script := fmt.Sprintf(`%s -D $PWD/data --no-sync --auth=trust >log
%s -D $PWD/data -w -o '-k "" -c fsync=off' -l server.log start >>log
%[2]s -D $PWD/data -w stop >>log
stat -c %%U data`, initdb, ctl)
	if out, err := m.inGuest(ctx, script); err == nil {
		return fmt.Errorf("initdb is root: %s", out)
	}
	out, err := m.inGuest(ctx, script, "--map-current")
	return expect(out, err, userName)
}

// usersSSH has sshd in a guest, whose /run is its own, and logs in from the host.
func usersSSH(ctx context.Context, m *machine) error {
	sshd, err := m.find("sshd")
	if err != nil {
		return err
	}
	const keys = `ssh-keygen -q -t ed25519 -N '' -f key; ssh-keygen -q -t ed25519 -N '' -f host; cp key.pub allowed`
	if out, err := m.inGuest(ctx, keys); err != nil {
		return fmt.Errorf("%s: %w", out, err)
	}
	server, err := m.start(nil, m.helper, "run", "--quiet", "--map-auto", "-p", "127.0.0.1:2222:22", "--", "sh", "-ec",
		"mount -t tmpfs none /run; mkdir -m 755 /run/sshd; cd "+policyDir+"; exec "+sshd+
			" -D -e -f /dev/null -h $PWD/host -o AuthorizedKeysFile=$PWD/allowed -o PidFile=none -o StrictModes=no -o UsePAM=no")
	if err != nil {
		return err
	}
	defer server.Close()
	out, err := m.do(ctx, "sh", "-c", "cd "+policyDir+`
		for i in $(seq 50); do
			ssh -F none -i key -p 2222 -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=known `+userName+`@127.0.0.1 'id -un; cat /proc/self/uid_map' 2>said && exit
			sleep 0.1
		done; cat said; exit 1`)
	if err != nil {
		err = fmt.Errorf("%w\nsshd: %s", err, tail(server.out.String()))
	}
	return expect(out, err, userName, "65535")
}

func usersApt(ctx context.Context, m *machine) error {
	web, err := serveApt(ctx, m)
	if err != nil {
		return err
	}
	defer web.Close()
	out, err := m.inGuest(ctx, "user=_apt\n"+aptUpdate+"\nstat -c %U lists/partial", "--map-auto")
	return expect(out, err, "mirror.policy.test", "_apt")
}
