package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"epiphyte/internal/api"
	"epiphyte/test/harness"
)

// Addresses of the default plan, as the guest sees them.
const (
	gatewayIPv4 = "10.0.2.2"
	gatewayIPv6 = "fd00::2"
	dnsIPv4     = "10.0.2.3"
	dnsIPv6     = "fd00::3"
	guestIPv4   = "10.0.2.100"
	guestIPv6   = "fd00::64"
)

// Ports of servers, and ports where nobody listens.
const (
	netPort     = 7000 // of the internet
	hostPort    = 7001 // of the host's loopback
	guestPort   = 8080
	closedPort  = 9
	exposedPort = 7101 // of the guest's loopback, leads to hostPort
	exposedDead = 7109 // leads to closedPort
)

// Ports of the host that a site publishes, from its first on.
const (
	publishedTCP  = iota // leads to guestPort
	publishedUDP         // leads to guestPort
	publishedDead        // leads to closedPort
	publishedNow         // comes and goes
	portsOfASite  = 10
)

// site is a guest and the helper that serves it.
type site struct {
	name    string
	first   int // port of the host
	guest   *harness.Guest
	helper  *harness.Helper
	etc     string // its resolv.conf is there
	api     api.Client
	servers *servers

	processes []*process
}

// newSite starts a helper, with options of its own beside those that all have.
func newSite(ctx context.Context, e *harness.Env, sv *servers, name string, first int, options ...string) (_ *site, err error) {
	s := &site{name: name, first: first, servers: sv}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	dir, err := os.MkdirTemp("", "site-")
	if err != nil {
		return nil, err
	}
	s.etc, s.api.HTTP = filepath.Join(dir, "etc"), filepath.Join(dir, "http")
	if err := os.Mkdir(s.etc, 0o755); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(s.etc, "resolv.conf"), []byte("nameserver "+answering()[0]+"\n"), 0o644); err != nil {
		return nil, err
	}
	if s.guest, err = e.NewGuest(); err != nil {
		return nil, err
	}
	for _, host := range []string{"0.0.0.0", "[::]"} {
		options = append(options,
			fmt.Sprintf("--publish=%s:%d:%d", host, first+publishedTCP, guestPort),
			fmt.Sprintf("--publish=%s:%d:%d/udp", host, first+publishedUDP, guestPort),
			fmt.Sprintf("--publish=%s:%d:%d", host, first+publishedDead, closedPort))
	}
	options = append(options, "-6", "-c", "--mtu=65520", "--http-socket="+s.api.HTTP,
		fmt.Sprintf("--expose-host=%d:%d", hostPort, exposedPort), fmt.Sprintf("--expose-host=%d:%d", closedPort, exposedDead),
		"-r", harness.ReadyFD, "-e", harness.ExitFD, strconv.Itoa(s.guest.PID), "tap0")
	if s.helper, err = e.Start(ctx, harness.HelperConfig{Args: options, Etc: s.etc}); err != nil {
		return nil, err
	}
	if s.processes, err = s.watched(); err != nil {
		return nil, err
	}
	if err := sv.streams(s.guest.NetNS, at("0.0.0.0", guestPort), at("::", guestPort)); err != nil {
		return nil, err
	}
	return s, sv.datagrams(s.guest.NetNS, at(guestIPv4, guestPort), at(guestIPv6, guestPort))
}

// at joins a host and a port.
func at(host string, port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }

func (s *site) close() {
	if s.helper != nil {
		s.helper.Kill()
	}
	if s.guest != nil {
		s.guest.Close()
	}
}
