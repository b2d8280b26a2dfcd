package main

import (
	"context"
	"errors"
	"os"
)

// The callers fix the helper's arguments, or pass some on: a policy comes by either way.

// allowedPolicy allows one name, of two that lead to the same server.
const allowedPolicy = "allow " + serverName + ":" + serverPort + "\n"

// policyFile writes it where the user can read it.
func (m *machine) policyFile() (path string, err error) {
	path = homeDir + "/tmp/allowed.policy"
	return path, os.WriteFile(path, []byte(allowedPolicy), 0o644)
}

// policyScript reaches the server by its name, and fails to by another and by its address.
// Each failure has to come at once: the caller's patience is that of three connections.
func policyScript(probe string) string {
	const port = ":" + serverPort
	return probe + " tcp " + serverName + port + " && ! timeout 5 " + probe + " tcp " + rootName + port + " 2>&1 && ! timeout 5 " + probe + " tcp " + outsideIPv4 + port + " 2>&1 && echo held"
}

// holds is nil if the script's output is that of a guest under the policy.
func holds(out string, err error) error {
	return first(err, has(out, "peer ", "no such host", outsideIPv4+":"+serverPort+": connect: no route to host", "held"))
}

// policyCheck is the check that run, which gets the policy's path, finds it applied.
func policyCheck(name, says string, run func(ctx context.Context, m *machine, file string) (string, error)) check {
	return check{
		name: name, says: says, needs: []need{beyond},
		run: func(ctx context.Context, m *machine) error {
			file, err := m.policyFile()
			if err != nil {
				return err
			}
			out, err := run(ctx, m, file)
			return errors.Join(holds(out, err), os.Remove(file))
		},
	}
}

// doUnder runs a command of the plain user whose environment names a policy.
func (m *machine) doUnder(ctx context.Context, file string, argv ...string) (string, error) {
	return output(m.command(ctx, []string{policyVariable + file}, argv...))
}

const policyVariable = "EPIPHYTE_POLICY="

func podmanPolicy() check {
	return policyCheck("podman/policy", "a policy by the environment: one name is reached, another and an address fail at once",
		func(ctx context.Context, m *machine, file string) (string, error) {
			return m.doUnder(ctx, file, "podman", "run", "--rm", "--network=slirp4netns", image, "sh", "-c", policyScript("probe"))
		})
}

func pastaPolicy() []check {
	return []check{
		policyCheck("pasta/policy", "a policy by --network pasta:--policy: one name is reached, another and an address fail at once",
			func(ctx context.Context, m *machine, file string) (string, error) {
				return pastaRun(ctx, m, "--policy,"+file, "sh", "-c", policyScript("probe"))
			}),
		policyCheck("pasta/policy-environment", "the same by the environment",
			func(ctx context.Context, m *machine, file string) (string, error) {
				return m.doUnder(ctx, file, "podman", "run", "--rm", image, "sh", "-c", policyScript("probe"))
			}),
	}
}

// kitPolicy is that of RootlessKit, by either helper.
func kitPolicy(suite string) check {
	return policyCheck(suite+"/policy", "a policy by the environment: one name is reached, another and an address fail at once",
		func(ctx context.Context, m *machine, file string) (string, error) {
			argv := append(m.kit("--disable-host-loopback"), "sh", "-c", policyScript(probePath))
			return m.doUnder(ctx, file, argv...)
		})
}

// pluginPolicy: a container has its network's policy, or that of its podman's environment.
func pluginPolicy(ctx context.Context, d *driver) error {
	file, err := d.policyFile()
	if err != nil {
		return err
	}
	if err := first(d.create(ctx, "narrow", "--opt=policy="+file), d.create(ctx, "wide")); err != nil {
		return err
	}
	run := func(network string) []string {
		return []string{"run", "--rm", "--network=" + network, image, "sh", "-c", policyScript("probe")}
	}
	if err := holds(d.do(ctx, append([]string{"podman"}, run("narrow")...)...)); err != nil {
		return err
	}
	if err := holds(d.do(ctx, append([]string{"env", policyVariable + file, d.podman()}, run("wide")...)...)); err != nil {
		return err
	}
	return os.Remove(file)
}

// dockerPolicySuite: a rootless daemon, and all of its containers, under one policy.
func dockerPolicySuite() suite {
	n := dockerNet{suite: "docker-policy", needs: []need{slirp, beyond, program("rootlesskit")}, env: func(m *machine) ([]string, error) {
		file, err := m.policyFile()
		if err != nil {
			return nil, err
		}
		env, err := m.pathWithHelper()
		return append(env, policyVariable+file), err
	}}
	return n.of(check{
		name: "docker/allowed", says: "a policy by the daemon's environment: one name is reached, another and an address fail at once",
		run: func(ctx context.Context, m *machine) error {
			return holds(m.dockerOnce(ctx, "sh", "-c", policyScript("probe")))
		},
	})
}
