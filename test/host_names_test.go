package test

import (
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"epiphyte/test/harness"
)

// hostNames are ours, podman's and Docker's.
var hostNames = []string{"host.epiphyte.internal", "host.containers.internal", "Host.Docker.internal"}

// asks sends a query to the guest's resolver.
func (w *world) asks(t testing.TB, transport, server, name string, kind uint16) *dns.Msg {
	t.Helper()
	var q, r dns.Msg
	q.SetQuestion(dns.Fqdn(name), kind)
	b, err := w.query(t, transport, server, must(q.Pack())(t), deadline)
	if err == nil {
		err = r.Unpack(b)
	}
	if err != nil {
		t.Fatalf("%s by %s: %v", name, transport, err)
	}
	return &r
}

// wantHost wants all names of the host to lead to an address of each family, empty for none.
func (w *world) wantHost(t testing.TB, server, v4, v6 string) {
	t.Helper()
	transport := "4"
	if strings.Contains(server, ":") {
		transport = "6"
	}
	rcode := dns.RcodeSuccess
	if v4 == "" && v6 == "" {
		rcode = dns.RcodeNameError
	}
	for _, name := range hostNames {
		for _, kind := range []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeTXT} {
			want := map[uint16]string{dns.TypeA: v4, dns.TypeAAAA: v6}[kind]
			for _, via := range []string{"udp", "tcp"} {
				r := w.asks(t, via+transport, server, name, kind)
				if got := strings.Join(records(r), " "); got != want || r.Rcode != rcode {
					t.Errorf("%s %s: %s %q, want %q", dns.TypeToString[kind], name, dns.RcodeToString[r.Rcode], got, want)
				}
			}
		}
		if r := w.asks(t, "udp"+transport, server, "x."+name, dns.TypeA); r.Rcode != dns.RcodeNameError {
			t.Errorf("below %s: %v", name, r)
		}
	}
}

// A guest finds the host by name, at the address by which it reaches it, if it may. No
// nameserver ever hears of these names.
func TestHostNames(t *testing.T) {
	ours(t, "names of the host")
	resolver := newPlace(t)
	upstream := serveDNS(t, env.Net.Net, resolver.v4, named("192.0.2.44"))
	cfg := func() harness.HelperConfig { return harness.HelperConfig{Etc: etc(t, resolver.v4)} }
	t.Run("gateway", func(t *testing.T) {
		w := serveWith(t, cfg())
		w.wantHost(t, dns4, gateway4, gateway6)
		w.wantHost(t, dns6, gateway4, gateway6)
		for _, a := range []string{gateway4, gateway6} {
			if got := records(w.asks(t, "udp4", dns4, reverse(t, netip.MustParseAddr(a)), dns.TypePTR)); !slices.Equal(got, []string{"host.epiphyte.internal."}) {
				t.Errorf("the name of %s is %v", a, got)
			}
		}
	})
	t.Run("no host loopback", func(t *testing.T) {
		serveWith(t, cfg(), "--disable-host-loopback").wantHost(t, dns4, "", "")
	})
	t.Run("pasta", func(t *testing.T) {
		// As podman has it, which writes the address into /etc/hosts.
		const mapped, forwarder = "169.254.1.2", "169.254.1.1"
		g := newGuest(t)
		w := &world{Guest: g, helper: pastaOn(t, g, cfg(), "--no-map-gw", "--map-guest-addr", mapped, "--dns-forward", forwarder)}
		w.wantHost(t, forwarder, mapped, "")
	})
	if asked := upstream.udp.Load() + upstream.tcp.Load(); asked > 0 {
		t.Errorf("the nameserver was asked %d times", asked)
	}
}

// Under a policy the names mean the host: rules about it decide, written by either.
func TestHostNames_Policy(t *testing.T) {
	t.Parallel()
	server := serveTCP(t, env.Host, "tcp4", "127.0.0.1:0", echoTCP)
	for _, tt := range []struct {
		rules string
		open  bool
	}{
		{"allow other.example\n", false},
		{"allow host:" + port(server) + "\n", true},
		{"allow host.docker.internal:" + port(server) + "\n", true},
		{"default allow\ndeny host.containers.internal\n", false},
	} {
		p := underPolicy(t, tt.rules)
		v4, v6 := gateway4, gateway6
		if !tt.open {
			v4, v6 = "", ""
		}
		p.wantHost(t, dns4, v4, v6)
		c, err := p.Dial(timeout(t, deadline), "tcp4", net.JoinHostPort(gateway4, port(server)))
		if err == nil {
			c.Close()
		}
		if (err == nil) != tt.open {
			t.Errorf("%q: a connection to the host: %v", tt.rules, err)
		}
		if asked := p.zone.queries(); len(asked) > 0 {
			t.Errorf("%q: a nameserver was asked for %v", tt.rules, asked)
		}
	}
}

// Members of a network find the host where the network allows it.
func TestHostNames_Network(t *testing.T) {
	t.Parallel()
	n := newNetworks(t)
	n.do(t, "network", "create", "open", "--allow-host-loopback")
	open, closed := n.run(t, "open", "one"), n.run(t, "shut", "two")
	for _, name := range hostNames {
		wantRecords(t, open, "udp4", name, dns.TypeA, open.gateway[unix.AF_INET])
		wantNothing(t, closed, "udp4", name, dns.TypeA, dns.RcodeNameError)
	}
}
