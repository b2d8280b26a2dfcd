package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
)

// podmanWorks: whether containers run here is asked without a network.
func podmanWorks(ctx context.Context, m *machine) error {
	if err := m.importImage(ctx, nil, "podman", "import", "-q"); err != nil {
		return err
	}
	_, err := m.do(ctx, "podman", "run", "--rm", "--network=none", image, "true")
	return err
}

// podmanNeeds are common to all suites of podman that give it slirp4netns.
func podmanNeeds() []need {
	return []need{
		slirp, program("podman", "newuidmap", "crun"), staticBusybox,
		works("a podman container without network", podmanWorks),
	}
}

// podmanSuite: one helper for each container.
func podmanSuite() suite {
	s := suite{needs: podmanNeeds(), clean: podmanClean}
	s.checks = append(s.checks, podmanNetwork()...)
	s.checks = append(s.checks, podmanOptions()...)
	s.checks = append(s.checks, podmanPolicy())
	s.checks = append(s.checks, podmanLife()...)
	s.checks = append(s.checks, podmanPorts()...)
	return s
}

// podmanClean removes containers and looks for what their helpers left.
func podmanClean(ctx context.Context, m *machine) error {
	_, err := m.do(ctx, "podman", "rm", "--all", "--force", "--time=0")
	return errors.Join(err, m.noHelpers())
}

// podmanRun runs one command in a container of its own and gives its output.
// options come after "slirp4netns:".
func podmanRun(ctx context.Context, m *machine, options string, argv ...string) (string, error) {
	return m.do(ctx, append([]string{"podman", "run", "--rm", "--network=" + slirpMode(options), image}, argv...)...)
}

func slirpMode(options string) string {
	if options == "" {
		return "slirp4netns"
	}
	return "slirp4netns:" + options
}

// podmanServe starts a container that serves port 80, with flags of podman run.
func podmanServe(ctx context.Context, m *machine, name string, flags ...string) error {
	argv := append([]string{"podman", "run", "--detach", "--name=" + name, "--stop-signal=TERM"}, flags...)
	_, err := m.do(ctx, append(argv, image, "probe", "serve", "80")...)
	return err
}

// outside is the server's address, IPv4.
func outside() string { return net.JoinHostPort(outsideIPv4, serverPort) }

// outside6 is the server's address, IPv6.
func outside6() string { return net.JoinHostPort(outsideIPv6, serverPort) }

// first is the first failure of a list, for steps that make no sense after one.
func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// peerIs holds the address that a server saw against what it should be.
func peerIs(out, want string) error {
	peer, err := peerOf(out)
	if err == nil && host(peer) != want {
		err = fmt.Errorf("the server saw %s, want %s", host(peer), want)
	}
	return err
}

// has says which of several texts is missing in an output.
func has(out string, texts ...string) error {
	for _, t := range texts {
		if !strings.Contains(out, t) {
			return fmt.Errorf("no %q in:\n%s", t, out)
		}
	}
	return nil
}

// failsWith says whether a command failed, and with what words.
func failsWith(err error, texts ...string) error {
	if err == nil {
		return errors.New("it worked")
	}
	for _, t := range texts {
		if strings.Contains(strings.ToLower(err.Error()), t) {
			return nil
		}
	}
	return fmt.Errorf("another failure than %q: %w", texts, err)
}
