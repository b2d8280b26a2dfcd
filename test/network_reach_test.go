package test

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// TestN1_MembersReachEachOther whatever made them: two commands of `run`, a namespace
// of unshare(1) joined by `attach`, a sandbox of bubblewrap, and a namespace that `network
// connect` has joined. Each finds each by name and talks to it by TCP, UDP and ping.
func TestN1_MembersReachEachOther(t *testing.T) {
	t.Parallel()
	n := newNetworks(t)
	members := []*member{
		n.run(t, "web", "db"),
		n.run(t, "web", "app"),
		n.attach(t, "web", "sibling", spawn(t, n, needs(t, "unshare"), "-Urn")),
		n.connect(t, "web", "detached", newGuest(t).PID),
	}
	for _, m := range members {
		m.serveEcho(t)
	}
	for _, a := range members {
		for _, b := range members {
			if a != b {
				a.finds(t, b)
			}
		}
	}
	t.Run("bubblewrap", func(t *testing.T) {
		bwrap := needs(t, "bwrap")
		sandbox := n.attach(t, "web", "sandbox", spawn(t, n, bwrap, "--unshare-user", "--unshare-net", "--dev-bind", "/", "/"))
		sandbox.serveEcho(t)
		for _, m := range members {
			m.finds(t, sandbox)
			sandbox.finds(t, m)
		}
	})
}

// finds wants a to find b by name and to talk to it in every way.
func (m *member) finds(t *testing.T, to *member) {
	t.Helper()
	for _, f := range families() {
		if got := m.resolve(t, f, to.Name); len(got) != 1 || got[0].String() != to.address(f) {
			t.Errorf("%s finds %s at %v, want %s", m.Name, to.Name, got, to.address(f))
			continue
		}
		for way, try := range ways {
			if err := try(m, t, f, to.address(f), deadline); err != nil {
				t.Errorf("%s to %s by %s over %s: %v", m.Name, to.Name, way, f.name, err)
			}
		}
	}
}

// resolve asks the gateway for a name's addresses of one family.
func (m *member) resolve(t testing.TB, f family, name string) (found []netip.Addr) {
	t.Helper()
	kind := map[int]uint16{unix.AF_INET: dns.TypeA, unix.AF_INET6: dns.TypeAAAA}[f.af]
	for _, rr := range m.asks(t, "udp4", name, kind).Answer {
		switch rr := rr.(type) {
		case *dns.A:
			found = append(found, addrOf(rr.A))
		case *dns.AAAA:
			found = append(found, addrOf(rr.AAAA))
		}
	}
	return found
}

func addrOf(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}

// asks sends the gateway a query and gives the answer.
func (m *member) asks(t testing.TB, transport, name string, kind uint16) *dns.Msg {
	t.Helper()
	r, err := m.tryAsk(t, transport, name, kind, deadline)
	if err != nil {
		t.Fatalf("%s asks for %s by %s: %v", m.Name, name, transport, err)
	}
	return r
}

func (m *member) tryAsk(t testing.TB, transport, name string, kind uint16, patience time.Duration) (*dns.Msg, error) {
	t.Helper()
	q := new(dns.Msg).SetQuestion(dns.Fqdn(name), kind)
	server := m.gateway[unix.AF_INET]
	if transport[len(transport)-1] == '6' {
		server = m.gateway[unix.AF_INET6]
	}
	b, err := m.query(t, transport, server, must(q.Pack())(t), patience)
	if err != nil {
		return nil, err
	}
	r := new(dns.Msg)
	if err := r.Unpack(b); err != nil {
		return nil, err
	}
	if r.Id != q.Id || len(r.Question) != 1 || r.Question[0] != q.Question[0] {
		t.Errorf("the answer is to another query: %v", r)
	}
	return r, nil
}
