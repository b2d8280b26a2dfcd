package test

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"epiphyte/test/harness"
)

// unconfigured is a guest whose TAP was made by a helper without -c.
func unconfigured(t testing.TB, flags ...string) *world {
	t.Helper()
	g := newGuest(t)
	if err := g.Sysctl("net/ipv4/conf/all/rp_filter", "0"); err != nil {
		t.Fatal(err)
	}
	h, err := env.Start(timeout(t, deadline), harness.HelperConfig{
		Args: append(flags, "-r", harness.ReadyFD, fmt.Sprint(g.PID), tapName),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Kill)
	return &world{Guest: g, helper: h}
}

// setUp brings a link of the guest up.
func (w *world) setUp(t testing.TB, name string) netlink.Link {
	t.Helper()
	var l netlink.Link
	if err := w.Do(func() (err error) {
		if l, err = netlink.LinkByName(name); err != nil {
			return err
		}
		return netlink.LinkSetUp(l)
	}); err != nil {
		t.Fatal(err)
	}
	return l
}

// TestWithoutConfigureNothingIsTouched: not even the link is up.
func TestWithoutConfigureNothingIsTouched(t *testing.T) {
	w := unconfigured(t)
	if err := w.Do(func() error {
		for _, name := range []string{"lo", tapName} {
			l, err := netlink.LinkByName(name)
			if err != nil {
				return err
			}
			if l.Attrs().Flags&net.FlagUp != 0 {
				t.Errorf("%s is up", name)
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// dhcpClient is a socket that can speak before it has an address.
func (w *world) dhcpClient(t testing.TB) net.PacketConn {
	t.Helper()
	c := must(w.ListenPacket("udp4", "0.0.0.0:68"))(t).(*net.UDPConn)
	t.Cleanup(func() { c.Close() })
	setOption(t, c, func(fd int) error {
		return unix.SetsockoptString(fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE, tapName)
	})
	return c
}

// ask broadcasts a message until it is answered.
func ask(t testing.TB, c net.PacketConn, m *dhcpv4.DHCPv4) *dhcpv4.DHCPv4 {
	t.Helper()
	var resp *dhcpv4.DHCPv4
	eventually(t, deadline, func() error {
		if _, err := c.WriteTo(m.ToBytes(), &net.UDPAddr{IP: net.IPv4bcast, Port: 67}); err != nil {
			return err
		}
		b, _, err := receive(c, time.Second)
		if err != nil {
			return err
		}
		resp, err = dhcpv4.FromBytes(b)
		if err == nil && resp.TransactionID != m.TransactionID {
			err = fmt.Errorf("answer to another request: %v", resp)
		}
		return err
	})
	return resp
}

// TestDHCPConfiguresTheNamespace: a lease with everything needed, then traffic.
func TestDHCPConfiguresTheNamespace(t *testing.T) {
	w := unconfigured(t)
	l := w.setUp(t, tapName)
	c := w.dhcpClient(t)
	offer := ask(t, c, must(dhcpv4.NewDiscovery(l.Attrs().HardwareAddr))(t))
	ack := ask(t, c, must(dhcpv4.NewRequestFromOffer(offer))(t))
	if ack.MessageType() != dhcpv4.MessageTypeAck {
		t.Fatalf("the request was answered by %v", ack)
	}
	got, _ := netip.AddrFromSlice(ack.YourIPAddr.To4())
	if first := netip.MustParseAddr("10.0.2.15"); got.Compare(first) < 0 || got.Compare(netip.MustParseAddr("10.0.2.30")) > 0 {
		t.Errorf("leased %v, want one of 10.0.2.15 to .30", got)
	}
	for what, have := range map[string]string{
		"router":  fmt.Sprint(ack.Router()),
		"DNS":     fmt.Sprint(ack.DNS()),
		"netmask": net.IP(ack.SubnetMask()).String(),
		"server":  ack.ServerIdentifier().String(),
	} {
		want := map[string]string{"router": "[10.0.2.2]", "DNS": "[10.0.2.3]", "netmask": "255.255.255.0", "server": "10.0.2.2"}[what]
		if have != want {
			t.Errorf("%s is %s, want %s", what, have, want)
		}
	}
	if lease := ack.IPAddressLeaseTime(0); lease != 24*time.Hour {
		t.Errorf("lease time %v, want 24 h", lease)
	}
	if err := w.Do(func() error {
		addr, err := netlink.ParseAddr(got.String() + "/24")
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(l, addr); err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Gw: ack.Router()[0]})
	}); err != nil {
		t.Fatal(err)
	}
	addr := serveTCP(t, env.Net.Net, "tcp4", harness.NetIPv4+":0", echoTCP)
	w.dial(t, "tcp4", addr.String())
}

// TestDHCPLeasesAreDistinctAndFinite: sixteen clients get sixteen addresses, a
// seventeenth none, and a wish is granted or refused, never altered.
func TestDHCPLeasesAreDistinctAndFinite(t *testing.T) {
	w := unconfigured(t)
	w.setUp(t, tapName)
	c := w.dhcpClient(t)
	mac := func(i byte) net.HardwareAddr { return net.HardwareAddr{2, 0, 0, 0, 1, i} }
	leased := map[string]byte{}
	for i := range byte(16) {
		offer := ask(t, c, must(dhcpv4.NewDiscovery(mac(i)))(t))
		ack := ask(t, c, must(dhcpv4.NewRequestFromOffer(offer))(t))
		if other, taken := leased[ack.YourIPAddr.String()]; taken || ack.MessageType() != dhcpv4.MessageTypeAck {
			t.Fatalf("client %d: %v, which client %d has", i, ack, other)
		}
		leased[ack.YourIPAddr.String()] = i
	}
	if _, err := c.WriteTo(must(dhcpv4.NewDiscovery(mac(99)))(t).ToBytes(), &net.UDPAddr{IP: net.IPv4bcast, Port: 67}); err != nil {
		t.Fatal(err)
	}
	if b, _, err := receive(c, 300*time.Millisecond); err == nil {
		m, _ := dhcpv4.FromBytes(b)
		t.Errorf("a seventeenth client was answered: %v", m)
	}
	again := ask(t, c, must(dhcpv4.NewDiscovery(mac(3)))(t))
	if leased[again.YourIPAddr.String()] != 3 {
		t.Errorf("a client that comes again was offered %v", again.YourIPAddr)
	}
	wish := must(dhcpv4.New(
		dhcpv4.WithHwAddr(mac(3)), dhcpv4.WithMessageType(dhcpv4.MessageTypeRequest),
		dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(net.IPv4(10, 0, 2, 200)))))(t)
	if nak := ask(t, c, wish); nak.MessageType() != dhcpv4.MessageTypeNak {
		t.Errorf("a request for an address outside the pool was answered by %v", nak)
	}
}

// TestRouterAdvertisementConfiguresTheNamespace: the kernel's own
// autoconfiguration is enough, soon after the link has come up.
func TestRouterAdvertisementConfiguresTheNamespace(t *testing.T) {
	w := unconfigured(t, "-6")
	w.setUp(t, tapName)
	begin := time.Now()
	addr := w.waitAddress(t, unix.AF_INET6)
	// The kernel itself waits up to a second before it solicits.
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("configured only after %v", took)
	}
	if !netip.MustParsePrefix("fd00::/64").Contains(addr) {
		t.Errorf("address %v, want one of fd00::/64", addr)
	}
	server := serveTCP(t, env.Net.Net, "tcp6", net.JoinHostPort(harness.NetIPv6, "0"), echoTCP)
	w.dial(t, "tcp6", server.String())
}

// TestRouterSolicitationIsAnsweredAtOnce, with the prefix and the DNS address.
func TestRouterSolicitationIsAnsweredAtOnce(t *testing.T) {
	w := serve(t)
	c := w.pinger(t, families()[1])
	index, _, err := w.Hardware(tapName)
	if err != nil {
		t.Fatal(err)
	}
	joinAllNodes(t, c, index)
	begin := time.Now()
	if _, err := c.WriteTo([]byte{133, 0, 0, 0, 0, 0, 0, 0}, &net.IPAddr{IP: net.ParseIP("ff02::2"), Zone: tapName}); err != nil {
		t.Fatal(err)
	}
	ra, from := c.wait(t, deadline, 134)
	if took := time.Since(begin); ra == nil || from != "fe80::2" || late(t, took, 2*time.Second) {
		t.Fatalf("% x from %q after %v, want an advertisement from fe80::2 at once", ra, from, took)
	}
	if lifetime := binary.BigEndian.Uint16(ra[6:]); lifetime != 1800 {
		t.Errorf("router lifetime %d s, want 1800", lifetime)
	}
	var kinds []byte
	for o := ra[16:]; len(o) >= 8 && o[1] > 0 && len(o) >= int(o[1])*8; o = o[int(o[1])*8:] {
		kinds = append(kinds, o[0])
		switch o[0] {
		case 3: // prefix information, RFC 4861
			// On the link, and not for autoconfiguration: this guest has its address.
			if prefix := netip.AddrFrom16([16]byte(o[16:32])); o[2] != 64 || o[3] != 0x80 || prefix.String() != "fd00::" {
				t.Errorf("prefix %v/%d, flags %#x", prefix, o[2], o[3])
			}
		case 25: // recursive DNS server, RFC 8106
			if server := netip.AddrFrom16([16]byte(o[8:24])); server.String() != dns6 {
				t.Errorf("DNS server %v, want %s", server, dns6)
			}
		}
	}
	for _, kind := range []byte{1, 3, 25} {
		if !slices.Contains(kinds, kind) {
			t.Errorf("options %v, option %d is missing", kinds, kind)
		}
	}
}

// joinAllNodes lets a raw socket see what is sent to ff02::1, and send
// solicitations that are valid (RFC 4861, section 6.1.1).
func joinAllNodes(t testing.TB, c *pinger, index int) {
	t.Helper()
	group := &unix.IPv6Mreq{Interface: uint32(index)}
	copy(group.Multiaddr[:], net.ParseIP("ff02::1"))
	setOption(t, c.PacketConn.(*net.IPConn), func(fd int) error {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 255); err != nil {
			return err
		}
		return unix.SetsockoptIPv6Mreq(fd, unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP, group)
	})
}

// TestAnotherAddressPlan: every address follows --cidr.
func TestAnotherAddressPlan(t *testing.T) {
	serveDNS(t, env.Net.Net, "198.51.100.4", named("192.0.2.44"))
	g := newGuest(t)
	w := &world{Guest: g, helper: attach(t, g, harness.HelperConfig{Etc: etc(t, "198.51.100.4")}, "--cidr=10.0.135.128/25")}
	if addr := w.waitAddress(t, unix.AF_INET); addr.String() != "10.0.135.228" {
		t.Errorf("address %v, want 10.0.135.228", addr)
	}
	host := serveTCP(t, env.Host, "tcp4", "127.0.0.1:0", echoTCP)
	w.dial(t, "tcp4", hostPort("10.0.135.130", host))
	if _, got, err := w.lookup(t, "udp4", "10.0.135.131", "a.example.", deadline); err != nil || got != "192.0.2.44" {
		t.Errorf("DNS at 10.0.135.131: %q, %v", got, err)
	}
}

// TestMACAddress is the one asked for.
func TestMACAddress(t *testing.T) {
	g := newGuest(t)
	attach(t, g, harness.HelperConfig{}, "--macaddress=02:11:22:33:44:55")
	if _, mac, err := g.Hardware(tapName); err != nil || mac.String() != "02:11:22:33:44:55" {
		t.Errorf("MAC %v, %v", mac, err)
	}
}
