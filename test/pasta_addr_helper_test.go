package test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"epiphyte/internal/addressing"
	"epiphyte/internal/guest"
	"epiphyte/internal/hostnet"
	"epiphyte/internal/policy"
	"epiphyte/portfwd"
	"epiphyte/tap"
	"epiphyte/test/harness"
)

// envCopied makes the test program a helper whose guest has the host's addresses, with
// this resolv.conf: see serveCopied.
const envCopied = "EPIPHYTE_TEST_COPIED"

// Addresses that stand for the host and its resolver, as podman asks for them.
const (
	mapped4, mapped6              = "169.254.1.2", "fc00::2"
	forwarder4, forwarder6        = "169.254.1.1", "fc00::53"
	publishedCopied        uint16 = 8080
)

// copiedWorld is a guest that has the addresses of a host.
func copiedWorld(t testing.TB, host *harness.NetNS, resolvConf string) *world {
	t.Helper()
	g := newGuest(t)
	h, err := env.Start(timeout(t, deadline), harness.HelperConfig{
		Args: []string{fmt.Sprint(g.PID)}, Host: host, Env: []string{envCopied + "=" + resolvConf}, Wrap: []string{"/proc/self/exe"}, Plain: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		h.Kill()
		if t.Failed() {
			t.Logf("the helper said:\n%s", h.Stderr)
		}
	})
	return &world{Guest: g, helper: h}
}

// serveCopied serves the guest of the process that the last argument names until it is
// killed. It stays what it is: the tests' own program starts threads as cgo does, which
// a confined one may not.
func serveCopied(resolvConf string) error {
	ctx := context.Background()
	pid, err := strconv.Atoi(os.Args[len(os.Args)-1])
	if err != nil {
		return err
	}
	host, err := hostnet.Open(hostnet.Config{})
	if err != nil {
		return err
	}
	plan, network, err := beside(host.Network())
	if err != nil {
		return err
	}
	device, err := tap.Open(ctx, tap.Config{Target: tap.Target{PID: pid}, Name: tapName, Configure: network})
	if err != nil {
		return err
	}
	g, err := guest.New(guest.Config{
		Device: device, Rules: policy.Rules{Plan: plan}, StaticIPv6: device.HasIPv6(), MTU: network.MTU, Host: host, ResolvConf: resolvConf,
	})
	if err != nil {
		return err
	}
	if _, err := g.Ports().Add(ctx, portfwd.Rule{HostPort: publishedCopied}); err != nil {
		return err
	}
	if _, err := unix.Write(3, []byte("1")); err != nil {
		return err
	}
	unix.Close(3)
	return g.Serve(ctx)
}

// beside is the plan of a guest beside the host, and what its device is configured with.
func beside(n *hostnet.Network) (addressing.Plan, *tap.Network, error) {
	a := netip.MustParseAddr
	c := addressing.Copied{HostAddrs: []netip.Addr{a(mapped4), a(mapped6)}, DNS: []netip.Addr{a(forwarder4), a(forwarder6)}, NoMapGateway: true}
	network := &tap.Network{MTU: 65520}
	for _, v6 := range []bool{false, true} {
		t, ok, err := n.Template("", v6)
		switch {
		case err != nil:
			return addressing.Plan{}, nil, err
		case ok && v6:
			c.Gateway6 = t.Gateway
		case ok:
			c.Gateway = t.Gateway
		case v6:
			c.Gateway6 = addressing.LocalGateway6()
		default:
			t.Addresses = []netip.Prefix{addressing.LocalAddress()}
		}
		c.Addresses = append(c.Addresses, t.Addresses...)
		network.Routes = append(network.Routes, t.Routes...)
	}
	plan, err := addressing.NewCopied(c)
	network.Gateway, network.Gateway6 = plan.Gateway, plan.Gateway6
	for _, p := range plan.Addresses {
		switch p.Addr() {
		case plan.Guest:
			network.Address = p
		case plan.Guest6:
			network.Address6 = p
		default:
			network.More = append(network.More, p)
		}
	}
	return plan, network, err
}
