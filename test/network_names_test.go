package test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"epiphyte/test/harness"
)

// transports are how members ask the gateway.
var transports = []string{"udp4", "tcp4", "udp6", "tcp6"}

// TestN3_Names: every kind of name, by UDP and TCP over IPv4 and IPv6, and never with
// a nameserver's help.
func TestN3_Names(t *testing.T) {
	t.Parallel()
	resolver := newPlace(t)
	upstream := serveDNS(t, env.Net.Net, resolver.v4, named("192.0.2.44"))
	n := newNetworks(t, resolver.v4)
	db := n.run(t, "web", "db", "--alias", "postgres", "--alias", "both")
	app := n.run(t, "web", "app", "--alias", "both")
	left := n.run(t, "web", "left")
	left.leave()
	eventually(t, deadline, func() error {
		if members := n.inspect(t, "web").members; len(members) != 2 {
			return fmt.Errorf("members: %v", members)
		}
		return nil
	})
	for _, transport := range transports {
		for _, name := range []string{"db", "db.web", "db.dns.podman", "DB", "Db.Web", "dB.dNs.PODMAN", "postgres", "postgres.web", "Postgres.dns.podman"} {
			wantRecords(t, app, transport, name, dns.TypeA, db.IPv4.String())
			wantRecords(t, app, transport, name, dns.TypeAAAA, db.IPv6.String())
			for _, kind := range []uint16{dns.TypeMX, dns.TypeSRV, dns.TypeTXT, dns.TypeHTTPS} {
				wantNothing(t, app, transport, name, kind, dns.RcodeSuccess)
			}
		}
		wantRecords(t, app, transport, reverse(t, db.IPv4), dns.TypePTR, "db.web.")
		wantRecords(t, app, transport, reverse(t, db.IPv6), dns.TypePTR, "db.web.")
		wantNothing(t, app, transport, reverse(t, left.IPv4), dns.TypePTR, dns.RcodeNameError)
		for _, name := range []string{"left", "left.web", "LEFT", "left.dns.podman", "never.dns.podman"} {
			for _, kind := range []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeMX} {
				wantNothing(t, app, transport, name, kind, dns.RcodeNameError)
			}
		}
	}
	if asked := upstream.udp.Load() + upstream.tcp.Load(); asked > 0 {
		t.Errorf("the nameserver was asked %d times", asked)
	}
	// Of a shared alias all addresses, each the first in its turn.
	for _, kind := range []uint16{dns.TypeA, dns.TypeAAAA} {
		first := map[string]bool{}
		for range 4 {
			got := records(app.asks(t, "udp4", "both", kind))
			if len(got) != 2 || got[0] == got[1] {
				t.Fatalf("both has %v", got)
			}
			first[got[0]] = true
		}
		if len(first) != 2 {
			t.Errorf("always %v is first", first)
		}
	}
	// Everything else is the nameservers'.
	for i, transport := range transports {
		wantForwarded(t, app, transport, fmt.Sprintf("name%d.example", i))
		wantForwarded(t, app, transport, fmt.Sprintf("never%d.web", i))
	}
	if asked := upstream.udp.Load() + upstream.tcp.Load(); asked < 8 {
		t.Errorf("the nameserver was asked %d times, want 8 at least", asked)
	}
	// A name comes back with its member, and has its address again.
	again := n.run(t, "web", "left")
	wantRecords(t, app, "udp4", "left", dns.TypeA, left.IPv4.String())
	if again.IPv4 != left.IPv4 || again.IPv6 != left.IPv6 {
		t.Errorf("left is back as %v and %v, was %v and %v", again.IPv4, again.IPv6, left.IPv4, left.IPv6)
	}
}

func reverse(t testing.TB, a netip.Addr) string {
	t.Helper()
	return must(dns.ReverseAddr(a.String()))(t)
}

// records are the addresses or names of an answer.
func records(r *dns.Msg) (found []string) {
	for _, rr := range r.Answer {
		switch rr := rr.(type) {
		case *dns.A:
			found = append(found, rr.A.String())
		case *dns.AAAA:
			found = append(found, rr.AAAA.String())
		case *dns.PTR:
			found = append(found, rr.Ptr)
		default:
			found = append(found, rr.String())
		}
	}
	return found
}

// wantRecords wants just these, which nobody may keep.
func wantRecords(t testing.TB, m *member, transport, name string, kind uint16, want ...string) {
	t.Helper()
	r := m.asks(t, transport, name, kind)
	if got := records(r); r.Rcode != dns.RcodeSuccess || !slices.Equal(got, want) {
		t.Errorf("%s %s by %s: %s %v, want %v", dns.TypeToString[kind], name, transport, dns.RcodeToString[r.Rcode], got, want)
	}
	for _, rr := range r.Answer {
		if rr.Header().Ttl != 0 {
			t.Errorf("%s %s may be kept: %v", dns.TypeToString[kind], name, rr)
		}
	}
}

// wantNothing wants an answer without records, with the SOA that says so.
func wantNothing(t testing.TB, m *member, transport, name string, kind uint16, rcode int) {
	t.Helper()
	r := m.asks(t, transport, name, kind)
	if r.Rcode != rcode || len(r.Answer) > 0 {
		t.Errorf("%s %s by %s: %s %v, want %s and nothing", dns.TypeToString[kind], name, transport, dns.RcodeToString[r.Rcode], r.Answer, dns.RcodeToString[rcode])
	}
	if len(r.Ns) != 1 || r.Ns[0].Header().Rrtype != dns.TypeSOA {
		t.Errorf("%s %s by %s: authority %v, want one SOA", dns.TypeToString[kind], name, transport, r.Ns)
	}
}

func wantForwarded(t testing.TB, m *member, transport, name string) {
	t.Helper()
	if got := records(m.asks(t, transport, name, dns.TypeA)); !slices.Equal(got, []string{"192.0.2.44"}) {
		t.Errorf("%s by %s is %v, want what the nameserver says", name, transport, got)
	}
}

// TestN3_NamesByTheLibrary: what a program of the guest asks the C library for.
func TestN3_NamesByTheLibrary(t *testing.T) {
	t.Parallel()
	resolver := newPlace(t)
	serveDNS(t, env.Net.Net, resolver.v4, named("192.0.2.44"))
	n := newNetworks(t, resolver.v4)
	db := n.run(t, "web", "db", "--alias", "postgres")
	const text = `uname -n && for name in db DB postgres db.web db.dns.podman; do getent ahostsv4 $name | head -1; done &&
		getent ahostsv6 db | head -1 && getent hosts "$1" && getent ahostsv4 name.example | head -1`
	var first []string
	out := n.do(t, "run", "--network", "web", "--name", "shell", "--", "bash", "-c", text, "bash", db.IPv4.String())
	for line := range strings.Lines(out) {
		first = append(first, strings.Fields(line)[0])
	}
	v4 := db.IPv4.String()
	if want := []string{"shell", v4, v4, v4, v4, v4, db.IPv6.String(), v4, "192.0.2.44"}; !slices.Equal(first, want) || !strings.Contains(out, "db.web") {
		t.Errorf("%s: want %q at the beginning of each line, and db.web by its address", out, want)
	}
}

// TestN3_NamesWithoutNameservers: members' names are answered as ever, and others
// fail in time, and as a failure: they may well exist.
func TestN3_NamesWithoutNameservers(t *testing.T) {
	t.Parallel()
	n := newNetworks(t, harness.SilentIPv4, harness.SilentIPv6)
	db, app := n.run(t, "web", "db"), n.run(t, "web", "app")
	for _, transport := range transports {
		begin := time.Now()
		wantRecords(t, app, transport, "db", dns.TypeA, db.IPv4.String())
		if took := time.Since(begin); late(t, took, time.Second) {
			t.Errorf("a member's name by %s took %v", transport, took)
		}
		r, err := app.tryAsk(t, transport, "name.example", dns.TypeA, 5*time.Second)
		if err != nil || r.Rcode != dns.RcodeServerFailure {
			t.Errorf("an outside name by %s: %v, %v, want SERVFAIL before a resolver gives up", transport, r, err)
		}
	}
}

// TestN1_SeveralNetworksOfOneGuest: it is on both, with an interface and a name of each; by
// each it reaches the members there, who do not reach each other.
func TestN1_SeveralNetworksOfOneGuest(t *testing.T) {
	t.Parallel()
	n := newNetworks(t)
	front := n.run(t, "front", "web")
	back := n.run(t, "back", "db")
	both := n.run(t, "front", "app", "--network", "back")
	behind := n.member(t, "back", "app", both.PID, both.helper)
	for _, m := range []*member{front, back, both} {
		m.serveEcho(t)
	}
	if both.Interface != "eth0" || behind.Interface != "eth1" {
		t.Errorf("the interfaces are %s and %s", both.Interface, behind.Interface)
	}
	both.finds(t, front)
	front.finds(t, both)
	behind.finds(t, back)
	back.finds(t, behind)
	for _, f := range families() {
		for way, try := range ways {
			for _, to := range []string{back.address(f), behind.address(f)} {
				if err := try(front, t, f, to, patience); err == nil {
					t.Errorf("the front reaches %s by %s", to, way)
				}
			}
		}
	}
	outside := newOutside(t)
	for _, f := range families() {
		if err := both.tryTCP(t, f, outside.of(f), deadline); err != nil {
			t.Errorf("outside over %s: %v", f.name, err)
		}
	}
	if got := front.asks(t, "udp4", "db", dns.TypeA); len(got.Answer) > 0 {
		t.Errorf("the front knows db: %v", got)
	}
	// The C library takes the first nameserver's word, which is the front's.
	for _, transport := range []string{"udp4", "tcp4"} {
		for _, name := range []string{"db", "DB.back", "db.dns.podman"} {
			got := both.asks(t, transport, name, dns.TypeA)
			if len(got.Answer) != 1 || !strings.HasSuffix(got.Answer[0].String(), "\t"+back.IPv4.String()) {
				t.Errorf("the guest of both asks the front for %s by %s: %v", name, transport, got)
			}
		}
	}
	both.leave()
	soon(t, 3*time.Second, func() error {
		for _, m := range []*member{front, back} {
			if r := m.asks(t, "udp4", "app", dns.TypeA); r.Rcode != dns.RcodeNameError {
				return fmt.Errorf("%s still knows app: %v", m.network, r.Answer)
			}
		}
		return nil
	})
	if _, ok := back.gateway[unix.AF_INET6]; !ok {
		t.Error("no IPv6")
	}
}
