package test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"epiphyte/test/harness"
)

// policedNetwork is networks whose host has one nameserver, and a server outside.
type policedNetwork struct {
	*networks
	zone   *zone
	dir    string // for policies and logs; the user's
	server string // port of an echo server at harness.NetIPv4 and harness.NetIPv6
}

func newPolicedNetwork(t testing.TB) *policedNetwork {
	t.Helper()
	ours(t, "policy")
	resolver := newPlace(t)
	p := &policedNetwork{zone: &zone{records: map[string][]string{}}, dir: t.TempDir()}
	serveDNS(t, env.Net.Net, resolver.v4, p.zone.answer)
	if err := os.Chmod(p.dir, 0o777); err != nil {
		t.Fatal(err)
	}
	p.networks = newNetworks(t, resolver.v4)
	for _, name := range []string{"one.example.", "two.example."} {
		p.zone.set(name, "A", name+" 60 IN A "+harness.NetIPv4)
		p.zone.set(name, "AAAA", name+" 60 IN AAAA "+harness.NetIPv6)
	}
	p.server = serveOnePort(t, env.Net.Net, echoTCP, harness.NetIPv4, harness.NetIPv6)
	return p
}

// policy writes a policy of which $PORT is the server's.
func (p *policedNetwork) policy(t testing.TB, name, text string) string {
	t.Helper()
	file := filepath.Join(p.dir, name)
	writeFile(t, file, strings.ReplaceAll(text, "$PORT", p.server))
	return file
}

// reaches is nil where a member reaches the server by a name, over both families.
func (p *policedNetwork) reaches(t testing.TB, m *member, name string, wait time.Duration) error {
	t.Helper()
	for _, f := range families() {
		r, err := m.tryAsk(t, "udp4", name, f.kind(), wait)
		if err != nil {
			return err
		}
		found := records(r)
		if len(found) == 0 {
			return fmt.Errorf("%s has no address over %s: %s", name, f.name, dns.RcodeToString[r.Rcode])
		}
		if err := p.dials(t, m, f, found[0], wait); err != nil {
			return err
		}
	}
	return nil
}

// dials is nil where a member reaches the server by an address.
func (p *policedNetwork) dials(t testing.TB, m *member, f family, addr string, wait time.Duration) error {
	t.Helper()
	c, err := m.Dial(timeout(t, wait), "tcp"+f.v, net.JoinHostPort(addr, p.server))
	if err != nil {
		return err
	}
	defer c.Close()
	return answers(t, c, "hello")
}

// wantReach wants a member to reach names and no others.
func (p *policedNetwork) wantReach(t testing.TB, m *member, names ...string) {
	t.Helper()
	for _, name := range []string{"one.example", "two.example"} {
		err := p.reaches(t, m, name, deadline)
		if want := strings.Contains(strings.Join(names, " "), name); (err == nil) != want {
			t.Errorf("%s to %s: %v", m.Name, name, err)
		}
	}
}

// TestPolicyOfMembers: each member of a network reaches what its own policy allows,
// however it has joined, also after the network's processes were killed; neighbours
// reach each other as ever.
func TestPolicyOfMembers(t *testing.T) {
	t.Parallel()
	p := newPolicedNetwork(t)
	one, two := p.policy(t, "one", "allow one.example:$PORT\n"), p.policy(t, "two", "allow two.example:$PORT\n")
	log := filepath.Join(p.dir, "log")
	a := p.run(t, "web", "a", "--policy", one, "--policy-log", log)
	b := p.attach(t, "web", "b", newGuest(t).PID, "--policy", two)
	c := p.connect(t, "web", "c", newGuest(t).PID, "--allow", "one.example:"+p.server)
	d := p.run(t, "web", "d")
	b.serveEcho(t)
	check := func(t testing.TB, members ...*member) {
		t.Helper()
		want := map[*member][]string{a: {"one.example"}, b: {"two.example"}, c: {"one.example"}, d: {"one.example", "two.example"}}
		for _, m := range members {
			p.wantReach(t, m, want[m]...)
			for _, f := range families() {
				if err := p.dials(t, m, f, f.server, deadline); (err == nil) != (m == d) || errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("%s to an address over %s: %v", m.Name, f.name, err)
				}
			}
		}
	}
	check(t, a, b, c, d)
	a.finds(t, b)
	// What a name of a's leads to leads b nowhere.
	theirs := records(a.asks(t, "udp4", "one.example", dns.TypeA))[0]
	if err := p.dials(t, b, families()[0], theirs, deadline); err == nil {
		t.Errorf("b reaches a name of a's by its address %s", theirs)
	}
	eventually(t, deadline, func() error {
		b, err := os.ReadFile(log)
		if !strings.Contains(string(b), `"guest":"a"`) || !strings.Contains(string(b), `"name":"two.example"`) || strings.Contains(string(b), `"guest":"b"`) {
			return fmt.Errorf("recorded of a: %s, %w", b, err)
		}
		return nil
	})
	before := p.inspect(t, "web")
	kill(t, before.Worker)
	p.recovers(t, before, a, "one.example")
	check(t, a, b, c, d)
	before = p.inspect(t, "web")
	kill(t, before.Worker)
	kill(t, before.Keeper)
	p.recovers(t, before, a, "one.example")
	p.recovers(t, before, b, "two.example")
	check(t, a, b)
}

// recovers waits until a member reaches a name again. Meanwhile it reaches nothing else.
func (p *policedNetwork) recovers(t testing.TB, before shown, m *member, name string) {
	t.Helper()
	eventually(t, deadline, func() error {
		if err := p.dials(t, m, families()[0], harness.NetIPv4, patience); err == nil {
			t.Fatalf("%s reaches anything while the network is started again", m.Name)
		}
		if now, err := p.tryInspect(t, "web"); err != nil || now.Worker == before.Worker {
			return fmt.Errorf("the worker is still %d: %w", before.Worker, err)
		}
		return p.reaches(t, m, name, patience)
	})
}

// TestPolicyOfMembersChanges: a member may have another policy while it is one, however it
// has joined, and also one that had none. It is told in numbers, ends transfers if it says
// so, and stays in force when the network's processes are killed.
func TestPolicyOfMembersChanges(t *testing.T) {
	t.Parallel()
	p := newPolicedNetwork(t)
	one, two := p.policy(t, "one", "allow one.example:$PORT\n"), p.policy(t, "two", "allow two.example:$PORT\n")
	kill2 := p.policy(t, "kill", "allow two.example:$PORT\nflows kill\n")
	a := p.run(t, "web", "a", "--policy", one)
	b := p.connect(t, "web", "b", newGuest(t).PID)
	p.wantReach(t, a, "one.example")
	f := families()[0]
	transfer := func(m *member, name string) *load {
		found := records(m.asks(t, "udp4", name, f.kind()))
		return loadOver(t, must(m.Dial(timeout(t, deadline), "tcp4", net.JoinHostPort(found[0], p.server)))(t))
	}
	kept, ended := transfer(a, "one.example"), transfer(b, "one.example")
	kept.goesOn(t)
	p.do(t, "network", "policy", "web", "a", two)
	p.do(t, "network", "policy", "web", "b", kill2)
	kept.goesOn(t)
	ended.isReset(t)
	check := func() {
		t.Helper()
		p.wantReach(t, a, "two.example")
		p.wantReach(t, b, "two.example")
	}
	check()
	shows := func(m *member, rule string) {
		t.Helper()
		if out := p.do(t, "network", "policy", "web", m.Name); !regexp.MustCompile(`(?m)^[1-9][0-9]* +` + regexp.QuoteMeta(rule)).MatchString(out) {
			t.Errorf("the policy of %s:\n%s", m.Name, out)
		}
	}
	shows(a, "allow two.example:"+p.server+"  "+two+":1")
	shows(b, "denied in all")
	metrics := overHTTP(t, p.file("web.api"), "GET", "/metrics", "")
	for _, want := range []string{`epiphyte_policy_decided_total{member="a",rule="` + two + `:1"} `, `epiphyte_policy_denied_total{member="b"} `} {
		if _, n, ok := strings.Cut(metrics, want); !ok || strings.HasPrefix(n, "0\n") {
			t.Errorf("the metrics have no %s", want)
		}
	}
	for _, m := range p.inspect(t, "web").members {
		if m.Denied == 0 || m.Policy != map[string]string{"a": two, "b": kill2}[m.Name] {
			t.Errorf("shown: %+v", m)
		}
	}
	broken := p.policy(t, "broken", "allow *.com\n")
	for says, args := range map[string][]string{
		broken + ":1:9: ": {"a", broken}, `no member "c"`: {"c", one}, "no such file": {"a", p.dir + "/nowhere"},
	} {
		if _, stderr, code := p.try(t, append([]string{"network", "policy", "web"}, args...)...); code == 0 || !strings.Contains(stderr, says) {
			t.Errorf("%q: exit status %d: %s", args, code, stderr)
		}
	}
	before := p.inspect(t, "web")
	kill(t, before.Worker)
	p.recovers(t, before, a, "two.example")
	check()
	before = p.inspect(t, "web")
	kill(t, before.Worker)
	kill(t, before.Keeper)
	p.recovers(t, before, a, "two.example")
	p.wantReach(t, a, "two.example") // b was connected and is a member no more
}

// TestPolicyOfMembersOlderFlows: what a member began before its first policy, and what clients
// of its published ports did, goes on under that, and ends under a later one that says so.
func TestPolicyOfMembersOlderFlows(t *testing.T) {
	t.Parallel()
	p := newPolicedNetwork(t)
	const deny = "allow nothing.example\nallow in from 203.0.113.99\n"
	keep, kill := p.policy(t, "keep", deny), p.policy(t, "kill", deny+"flows kill\n")
	at := harness.HostIPv4 + ":18087"
	m := p.run(t, "web", "a", "-p", at+":8080", "-p", at+":8080/udp")
	serveTCP(t, m.NetNS, "tcp4", "0.0.0.0:8080", echoTCP)
	servePacket(t, m.NetNS, "udp4", "0.0.0.0:8080", echoPacket)
	datagrams := servePacket(t, env.Net.Net, "udp4", harness.NetIPv4+":0", echoPacket)
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: fromLinkLocal(t, m), Zone: "eth0"}}
	transfers := []*load{
		loadOver(t, must(m.Dial(timeout(t, deadline), "tcp4", net.JoinHostPort(harness.NetIPv4, p.server)))(t)),
		loadOver(t, must(env.Net.Net.Dial(timeout(t, deadline), "tcp4", at))(t)),
		loadOver(t, must(m.NetNS.DialWith(timeout(t, deadline), d, "tcp6", net.JoinHostPort(harness.NetIPv6, p.server)))(t)),
	}
	talk := must(m.Dial(timeout(t, deadline), "udp4", datagrams.LocalAddr().String()))(t)
	defer talk.Close()
	client := must(env.Net.Net.Dial(timeout(t, deadline), "udp4", at))(t)
	defer client.Close()
	goOn := func() {
		t.Helper()
		for _, x := range transfers {
			x.goesOn(t)
		}
		for _, c := range []net.Conn{talk, client} {
			if err := answers(t, c, "by UDP"); err != nil {
				t.Errorf("UDP from %v: %v", c.LocalAddr(), err)
			}
		}
	}
	goOn()
	p.do(t, "network", "policy", "web", "a", keep)
	goOn()
	p.do(t, "network", "policy", "web", "a", kill)
	for _, x := range transfers {
		x.isReset(t)
	}
	if err := answers(t, talk, "denied"); err == nil || os.IsTimeout(err) {
		t.Errorf("UDP: %v, want to be refused at once", err)
	}
	client.Write([]byte("denied")) // that nobody listens is as good
	client.SetReadDeadline(time.Now().Add(patience))
	if n, err := client.Read(make([]byte, 100)); err == nil {
		t.Errorf("a client of UDP has %d bytes from the member", n)
	}
}

// fromLinkLocal is the address of a member's own making, once it can send from it.
func fromLinkLocal(t testing.TB, m *member) (own net.IP) {
	t.Helper()
	eventually(t, deadline, func() error {
		err := m.Do(func() error {
			link, err := netlink.LinkByName("eth0")
			if err != nil {
				return err
			}
			addrs, err := netlink.AddrList(link, unix.AF_INET6)
			for _, a := range addrs {
				if a.IP.IsLinkLocalUnicast() && a.Flags&unix.IFA_F_TENTATIVE == 0 {
					own = a.IP
				}
			}
			return err
		})
		if own == nil {
			return fmt.Errorf("no link-local address: %w", err)
		}
		return nil
	})
	return own
}

// TestPolicyOfMembersLinkLocal: a member's own addresses are not all that it can send from.
func TestPolicyOfMembersLinkLocal(t *testing.T) {
	t.Parallel()
	p := newPolicedNetwork(t)
	m := p.run(t, "web", "a", "--allow", "one.example:"+p.server)
	own := fromLinkLocal(t, m)
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: own, Zone: "eth0"}}
	if c, err := m.NetNS.DialWith(timeout(t, patience), d, "tcp6", net.JoinHostPort(harness.NetIPv6, p.server)); err == nil {
		t.Error("a server is reached from a link-local address")
		c.Close()
	}
	d.LocalAddr = &net.UDPAddr{IP: own, Zone: "eth0"}
	c := must(m.NetNS.DialWith(timeout(t, patience), d, "udp6", net.JoinHostPort(m.gateway[unix.AF_INET6], "53")))(t)
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	c.Write(must(new(dns.Msg).SetQuestion("secret.two.example.", dns.TypeA).Pack())(t))
	if n, err := c.Read(make([]byte, 600)); err == nil {
		t.Errorf("a query from a link-local address is answered by %d bytes", n)
	}
	for _, q := range p.zone.queries() {
		if strings.Contains(q, "two.example") {
			t.Errorf("the nameserver was asked for %s", q)
		}
	}
}

// TestPolicyOfMembersInward: clients of a member's published ports are judged by its
// policy, on the direct path and over the bridge.
func TestPolicyOfMembersInward(t *testing.T) {
	t.Parallel()
	p := newPolicedNetwork(t)
	file := p.policy(t, "in", "allow in from "+harness.NetIPv4+"\n")
	a := p.run(t, "web", "a", "--policy", file, "-p", harness.HostIPv4+":18083:8080")
	b := p.connect(t, "web", "b", newGuest(t).PID, "--policy", file, "-p", harness.HostIPv4+":18084:8080")
	for m, at := range map[*member]string{a: "18083", b: "18084"} {
		serveTCP(t, m.NetNS, "tcp4", "0.0.0.0:8080", echoTCP)
		for from, want := range map[string]bool{harness.NetIPv4: true, harness.OtherIPv4: false} {
			d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
			c, err := env.Net.Net.DialWith(timeout(t, deadline), d, "tcp4", harness.HostIPv4+":"+at)
			if err == nil {
				err = answers(t, c, "let me in")
				c.Close()
			}
			if (err == nil) != want || os.IsTimeout(err) {
				t.Errorf("from %s to %s: %v", from, m.Name, err)
			}
		}
	}
}

// TestPolicyOfNetwork: a network may have a policy for members that bring none, and one
// that cannot be had ends a start in one line.
func TestPolicyOfNetwork(t *testing.T) {
	t.Parallel()
	p := newPolicedNetwork(t)
	one, two := p.policy(t, "one", "allow one.example:$PORT\n"), p.policy(t, "two", "allow two.example:$PORT\n")
	p.do(t, "network", "create", "--policy", one, "web")
	t.Cleanup(func() { p.do(t, "network", "rm", "--force", "web") })
	p.wantReach(t, p.run(t, "web", "a"), "one.example")
	p.wantReach(t, p.run(t, "web", "b", "--policy", two), "two.example")
	before := p.cfg.Env
	p.cfg.Env = append(p.cfg.Env, "EPIPHYTE_POLICY="+two)
	p.wantReach(t, p.run(t, "web", "c"), "two.example")
	p.cfg.Env = before

	broken, members := p.policy(t, "broken", "allow a.example\nallow *.com\n"), p.policy(t, "members", "deny members\n")
	for _, tt := range []struct {
		args []string
		says string
	}{
		{[]string{"network", "create", "--policy", broken, "other"}, broken + ":2:9: "},
		{[]string{"network", "create", "--policy", members, "other"}, members + ":1: "},
		{[]string{"run", "--network", "web", "--policy", broken, "true"}, broken + ":2:9: "},
		{[]string{"run", "--network", "web", "--policy", members, "true"}, members + ":1: "},
		{[]string{"network", "connect", "--policy", p.dir + "/nowhere", "web", fmt.Sprint(newGuest(t).PID)}, "no such file"},
	} {
		if _, stderr, code := p.try(t, tt.args...); code == 0 || !strings.Contains(stderr, tt.says) || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%q: exit status %d: %s", tt.args, code, stderr)
		}
	}
}
