package test

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"epiphyte/test/harness"
)

const guest6 = "fd00::64"

// globals are the global IPv6 addresses of the guest's interface.
func (w *world) globals(t testing.TB) (all []string) {
	t.Helper()
	if err := w.Do(func() error {
		l, err := netlink.LinkByName(tapName)
		if err != nil {
			return err
		}
		addrs, err := netlink.AddrList(l, unix.AF_INET6)
		for _, a := range addrs {
			if a.Scope == unix.RT_SCOPE_UNIVERSE {
				all = append(all, a.IP.String())
			}
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return all
}

// internet6 is a server of the internet that the host has talked to: what the host's
// kernel waits for before its first packet is not the guest's wait.
func internet6(t testing.TB) net.Addr {
	t.Helper()
	server := serveTCP(t, env.Net.Net, "tcp6", net.JoinHostPort(harness.NetIPv6, "0"), echoTCP)
	client(t, env.Host, "tcp6", server.String())
	return server
}

// connects6 connects to the internet by IPv6 at once: an address that is examined first takes
// longer than two seconds, a SYN that is lost one.
func (w *world) connects6(t testing.TB, server net.Addr) {
	t.Helper()
	begin := time.Now()
	c, err := w.Dial(timeout(t, deadline), "tcp6", server.String())
	if took := time.Since(begin); err != nil || late(t, took, 2*time.Second) {
		t.Fatalf("%v after %v", err, took)
	}
	defer c.Close()
	if got := netip.MustParseAddrPort(c.LocalAddr().String()).Addr().String(); got != guest6 {
		t.Errorf("connected from %s, want %s", got, guest6)
	}
}

// TestB1_IPv6WhateverTheGuestsSettings: an IPv6 connection works at the ready byte
// and goes on to, from the one address that the guest has, whatever its kernel is
// told about router advertisements, then or later.
func TestB1_IPv6WhateverTheGuestsSettings(t *testing.T) {
	ours(t, "IPv6 address at ready")
	server := internet6(t)
	for name, settings := range map[string]map[string]string{
		"kernel's defaults":   {"accept_dad": "1"},
		"forwarding":          {"forwarding": "1"},
		"no advertisements":   {"accept_ra": "0"},
		"no configuration":    {"autoconf": "0"},
		"temporary addresses": {"use_tempaddr": "2"},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGuest(t)
			set := func(setting, value string, places ...string) {
				for _, place := range places {
					if err := g.Sysctl("net/ipv6/conf/"+place+"/"+setting, value); err != nil {
						t.Fatal(err)
					}
				}
			}
			for setting, value := range settings {
				set(setting, value, "all", "default")
			}
			w := &world{Guest: g, helper: attach(t, g, harness.HelperConfig{}, "-6")}
			w.connects6(t, server)
			set("forwarding", "1", "all", tapName)
			w.connects6(t, server)
			// Time for an advertisement, which one more address could come from.
			set("forwarding", "0", "all", tapName)
			set("accept_ra", "2", tapName)
			c := w.pinger(t, families()[1])
			index, _, err := w.Hardware(tapName)
			if err != nil {
				t.Fatal(err)
			}
			joinAllNodes(t, c, index)
			if _, err := c.WriteTo([]byte{133, 0, 0, 0, 0, 0, 0, 0}, &net.IPAddr{IP: net.ParseIP("ff02::2"), Zone: tapName}); err != nil {
				t.Fatal(err)
			}
			if ra, _ := c.wait(t, deadline, 134); ra == nil {
				t.Error("no advertisement")
			}
			if got := w.globals(t); !slices.Equal(got, []string{guest6}) {
				t.Errorf("addresses %v, want %s alone", got, guest6)
			}
		})
	}
}

// TestB1_IPv6AgainOnAPersistentTAP: the address and the routes that a predecessor has
// left, and those of its advertisements, are no obstacle.
func TestB1_IPv6AgainOnAPersistentTAP(t *testing.T) {
	ours(t, "IPv6 address at ready")
	oneQueue(t)
	server := internet6(t)
	g := newGuest(t)
	needs(t, "ip")
	if out, err := g.Run(timeout(t, deadline), "ip", "tuntap", "add", tapName, "mode", "tap"); err != nil {
		t.Fatal(out, err)
	}
	for range 2 {
		h, err := env.Start(timeout(t, deadline), harness.HelperConfig{
			Args: []string{"-6", "-c", "-r", harness.ReadyFD, fmt.Sprint(g.PID), tapName},
		})
		if err != nil {
			t.Fatal(err)
		}
		w := &world{Guest: g, helper: h}
		w.connects6(t, server)
		h.Kill()
	}
}

// TestRunHasIPv6AtOnce: the command's first act finds the address.
func TestRunHasIPv6AtOnce(t *testing.T) {
	server := internet6(t)
	h, code := script(t, harness.HelperConfig{}, `exec 3<>"/dev/tcp/$1/$2" && grep -c tap0 /proc/net/if_inet6`, harness.NetIPv6, port(server))
	if code != 0 || h.Stdout.String() != "2\n" { // and the link-local one
		t.Errorf("exit status %d, %q addresses\n%s", code, h.Stdout, h.Stderr)
	}
}

// TestPublishedIPv6StaysWithTheTAP: where the guest configures itself, clients of
// IPv6 ports reach the TAP's own address, also when another interface on top of it
// was the last to speak.
func TestPublishedIPv6StaysWithTheTAP(t *testing.T) {
	ours(t, "--publish")
	w := unconfigured(t, "-6", "-p", "[::1]:18061:8080")
	link := w.setUp(t, tapName)
	own := w.waitAddress(t, unix.AF_INET6)
	serveTCP(t, w.NetNS, "tcp6", net.JoinHostPort(own.String(), guestPort), echoTCP)
	if err := w.Do(func() error {
		return netlink.LinkAdd(&netlink.Macvlan{
			LinkAttrs: netlink.LinkAttrs{Name: "mv0", ParentIndex: link.Attrs().Index},
			Mode:      netlink.MACVLAN_MODE_BRIDGE,
		})
	}); err != nil {
		t.Fatal(err)
	}
	w.setUp(t, "mv0")
	var other netip.Addr
	eventually(t, deadline, func() (err error) {
		other, err = w.Address("mv0", unix.AF_INET6)
		return err
	})
	loop := servePacket(t, env.Host, "udp6", "[::1]:0", echoPacket)
	c := must(w.ListenPacket("udp6", net.JoinHostPort(other.String(), "0")))(t).(*net.UDPConn)
	t.Cleanup(func() { c.Close() })
	setOption(t, c, func(fd int) error { return unix.SetsockoptString(fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE, "mv0") })
	if _, err := c.WriteTo([]byte("I am here"), udpAddr(gateway6, loop.LocalAddr())); err != nil {
		t.Fatal(err)
	}
	if b, _, err := receive(c, deadline); err != nil || string(b) != "I am here" {
		t.Fatalf("%q, %v", b, err)
	}
	if err := says(client(t, env.Host, "tcp6", "[::1]:18061"), "to the TAP's own address"); err != nil {
		t.Error(err)
	}
}
