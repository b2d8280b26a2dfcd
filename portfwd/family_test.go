package portfwd

import (
	"errors"
	"net"
	"net/netip"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"epiphyte/internal/addressing/addressingtest"
	"epiphyte/internal/testnet"
)

// Clients of an IPv6 port may be carried to an IPv4 address of the guest, where they
// are the gateway; the guest need not have IPv6.
func TestIPv6PortToIPv4Guest(t *testing.T) {
	for _, noIPv6 := range []bool{false, true} {
		w := newWorld(t, setting{noIPv6: noIPv6})
		loop := netip.IPv6Loopback()
		seen := make(chan netip.Addr, 1)
		w.serve(loop4, 80, func(c net.Conn) {
			seen <- netip.MustParseAddrPort(c.RemoteAddr().String()).Addr()
			echo(c)
		})
		e, err := w.Add(t.Context(), Rule{Host: loop, HostPort: testnet.FreePort(t, TCP, loop), Guest: w.Guest.Addr, GuestPort: 80})
		if err != nil {
			t.Fatal(err)
		}
		says(t, dial(t, address(e)), "over both families")
		if got := <-seen; got != w.Plan.Gateway {
			t.Errorf("the server sees %v, want the gateway", got)
		}

		at := tcpip.FullAddress{NIC: 1, Addr: tcpip.AddrFromSlice(w.Guest.Addr.AsSlice()), Port: 53}
		server, err := gonet.DialUDP(w.Guest.Stack, &at, nil, header.IPv4ProtocolNumber)
		if err != nil {
			t.Fatal(err)
		}
		defer server.Close()
		go func() {
			b := make([]byte, 100)
			if n, from, err := server.ReadFrom(b); err == nil {
				server.WriteTo(b[:n], from)
			}
		}()
		e, err = w.Add(t.Context(), Rule{Proto: UDP, Host: loop, HostPort: testnet.FreePort(t, UDP, loop), Guest: w.Guest.Addr, GuestPort: 53})
		if err != nil {
			t.Fatal(err)
		}
		c, err := net.DialUDP("udp6", nil, net.UDPAddrFromAddrPort(address(e)))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		says(t, c, "a datagram")
	}
}

// A port may lead to any address that could be the guest's, or behind it, but not
// to ours, nor to IPv6 where there is none.
func TestGuestAddresses(t *testing.T) {
	w := newWorld(t, setting{noIPv6: true})
	for _, c := range []struct{ host, guest, field string }{
		{"127.0.0.1", "10.0.2.15", ""},
		{"127.0.0.1", "172.17.0.2", ""}, // of a container in the guest
		{"127.0.0.1", "10.0.2.2", "guest_addr"},
		{"127.0.0.1", "10.0.2.3", "guest_addr"},
		{"::1", "10.0.2.100", ""},
		{"::1", "fd00::64", "host_addr"},
		{"::1", "", "host_addr"},
	} {
		host := netip.MustParseAddr(c.host)
		var guest netip.Addr
		if c.guest != "" {
			guest = netip.MustParseAddr(c.guest)
		}
		_, err := w.Add(t.Context(), Rule{Host: host, HostPort: testnet.FreePort(t, TCP, host), Guest: guest})
		if fe, ok := errors.AsType[*FieldError](err); ok && fe.Field != c.field || !ok && (err != nil || c.field != "") {
			t.Errorf("%s to %s: %v, want an error of %q", c.host, c.guest, err, c.field)
		}
	}
}

// On a network of several members a port leads to one that is named.
func TestNetworkRulesNameTheMember(t *testing.T) {
	p := addressingtest.Network(t)
	for _, c := range []struct {
		host, guest string
		ok          bool
	}{
		{"127.0.0.1", "10.90.0.2", true},
		{"::1", "fd90::2", true},
		{"::1", "10.90.0.2", true},
		{"127.0.0.1", "", false},
		{"::1", "", false},
		{"127.0.0.1", "10.90.0.1", false},
		{"::1", "fd90::1", false},
	} {
		r := Rule{Host: netip.MustParseAddr(c.host), HostPort: 80}
		if c.guest != "" {
			r.Guest = netip.MustParseAddr(c.guest)
		}
		err := r.resolve(&p)
		if fe, ok := errors.AsType[*FieldError](err); c.ok != (err == nil) || ok && fe.Field != "guest_addr" {
			t.Errorf("%s to %q: %v, want it to pass: %v", c.host, c.guest, err, c.ok)
		}
	}
}
