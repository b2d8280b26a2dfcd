package test

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"epiphyte/test/harness"
)

// TestPolicyInward: clients of published ports are let in by where they come from.
func TestPolicyInward(t *testing.T) {
	for _, mode := range []string{"stack", "direct"} {
		t.Run(mode, func(t *testing.T) {
			eachFamily(t, func(t *testing.T, f family) { policyInward(t, f, mode) })
		})
	}
}

func policyInward(t *testing.T, f family, mode string) {
	host, any, source, other := harness.HostIPv4, "0.0.0.0", harness.NetIPv4, harness.OtherIPv4
	if f.v == "6" {
		host, any, source, other = "["+harness.HostIPv6+"]", "[::]", harness.NetIPv6, harness.OtherIPv6
	}
	p := underPolicy(t, "allow in from "+source+" to 8080\n", "--publish-mode", mode, "-p", host+":18081:8080", "-p", host+":18082:8081")
	serveTCP(t, p.NetNS, "tcp"+f.v, any+":8080", echoTCP)
	serveTCP(t, p.NetNS, "tcp"+f.v, any+":8081", echoTCP)
	for _, tt := range []struct {
		from, port string
		want       bool
	}{{source, "18081", true}, {other, "18081", false}, {source, "18082", false}} {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(tt.from)}}
		c, err := env.Net.Net.DialWith(timeout(t, deadline), d, "tcp"+f.v, host+":"+tt.port)
		if err == nil {
			err = answers(t, c, "let me in")
			c.Close()
		}
		if (err == nil) != tt.want || os.IsTimeout(err) {
			t.Errorf("%s: from %s to %s: %v", mode, tt.from, tt.port, err)
		}
	}
}

// TestPolicyPins: with names pin a guest gets real addresses, which are allowed as long
// as they are those of an allowed name, and of the same name on the wire.
func TestPolicyPins(t *testing.T) {
	cfg := &tls.Config{Certificates: []tls.Certificate{certificate(t)}}
	serveTCP(t, env.Net.Net, "tcp4", harness.NetIPv4+":443", func(c *net.TCPConn) { tls.Server(c, cfg).Handshake() })
	p := underPolicy(t, "names pin\nallow good.example:443\nallow fine.example:443\nallow own.example:443\n")
	p.zone.set("own.example.", "A", "own.example. 60 IN A "+harness.HostIPv4)
	p.find(t, "own.example", dns.TypeA)
	p.wantDenied(t, "tcp4", harness.HostIPv4+":443")
	for _, name := range []string{"good.example.", "fine.example."} {
		p.zone.set(name, "A", name+" 60 IN CNAME cdn.example.", "cdn.example. 60 IN A "+harness.NetIPv4, "cdn.example. 60 IN A 10.0.0.1")
	}
	p.wantDenied(t, "tcp4", harness.NetIPv4+":443")
	if addr, _ := p.find(t, "good.example", dns.TypeA); addr != harness.NetIPv4 {
		t.Errorf("good.example has the address %s", addr)
	}
	p.find(t, "fine.example", dns.TypeA)
	for sni, want := range map[string]bool{"good.example": true, "fine.example": true, "evil.example": false} {
		c, err := p.dialFor(t, "tcp4", harness.NetIPv4+":443")
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(deadline))
		if err := tls.Client(c, &tls.Config{ServerName: sni, InsecureSkipVerify: true}).Handshake(); (err == nil) != want || os.IsTimeout(err) {
			t.Errorf("SNI %s: %v", sni, err)
		}
	}
	p.wantDenied(t, "tcp4", harness.NetIPv4+":80")
	p.wantDenied(t, "tcp4", "10.0.0.1:443")
}

// TestPolicyByHTTP: the policy is shown, counted and replaced through the HTTP socket.
func TestPolicyByHTTP(t *testing.T) {
	server := serveTCP(t, env.Net.Net, "tcp4", harness.NetIPv4+":0", echoTCP)
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "http")
	p := underPolicy(t, "allow "+server.String()+"\n", "--http-socket", socket)
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}
	defer client.CloseIdleConnections()
	put := func(text string) int {
		t.Helper()
		req := must(http.NewRequestWithContext(timeout(t, deadline), "PUT", "http://localhost/v1/policy", strings.NewReader(text)))(t)
		r, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		r.Body.Close()
		return r.StatusCode
	}
	if c := p.dial(t, "tcp4", server.String()); answers(t, c, "allowed") != nil {
		t.Error("not allowed")
	}
	if code := put("allow *.com"); code != http.StatusBadRequest {
		t.Errorf("a wrong policy: %d", code)
	}
	if code := put("allow other.example:443\n"); code != http.StatusOK {
		t.Errorf("another policy: %d", code)
	}
	p.wantDenied(t, "tcp4", server.String())
}

// TestPolicyPing: echo requests by name, and not without a rule.
func TestPolicyPing(t *testing.T) {
	ping := needs(t, "ping")
	p := underPolicy(t, "allow icmp good.example\n")
	p.zone.set("good.example.", "A", "good.example. 60 IN A "+harness.NetIPv4)
	addr, _ := p.find(t, "good.example", dns.TypeA)
	if out, err := p.Run(timeout(t, deadline), ping, "-n", "-c", "2", "-i", "0.2", "-W", "3", addr); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	if out, err := p.Run(timeout(t, deadline), ping, "-n", "-c", "1", "-W", "2", harness.NetIPv4); err == nil {
		t.Errorf("a literal address: %s", out)
	}
}

// TestPolicyDoors: the environment names a policy where no option does, in run as well;
// what cannot be read ends the start in one line.
func TestPolicyDoors(t *testing.T) {
	ours(t, "policy")
	server := serveTCP(t, env.Net.Net, "tcp4", harness.NetIPv4+":0", echoTCP)
	file := filepath.Join(t.TempDir(), "policy")
	writeFile(t, file, "allow 192.0.2.99\n")
	const dial = `exec 3<>"/dev/tcp/$1/$2"`
	run := func(cfg harness.HelperConfig, args ...string) (int, string) {
		t.Helper()
		cfg.Args, cfg.NoWait = append([]string{"run"}, args...), true
		h, err := env.Start(timeout(t, deadline), cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer h.Kill()
		code, sig, err := h.Exit(timeout(t, deadline))
		if err != nil || sig != 0 {
			t.Fatalf("%v, %v: %s", sig, err, h.Stderr)
		}
		return code, h.Stderr.String()
	}
	command := []string{"--", "bash", "-c", dial, "bash", harness.NetIPv4, port(server)}
	under := harness.HelperConfig{Env: []string{"EPIPHYTE_POLICY=" + file}}
	if code, _ := run(harness.HelperConfig{}, command...); code != 0 {
		t.Errorf("without a policy: %d", code)
	}
	if code, _ := run(under, command...); code == 0 {
		t.Error("by the environment: the guest reaches what the policy does not allow")
	}
	if code, _ := run(under, append([]string{"--allow", server.String()}, command...)...); code != 0 {
		t.Errorf("with a rule more: %d", code)
	}
	writeFile(t, file, "allow a.example\n  deny 10.0.0.1/8\n")
	if code, stderr := run(under, "true"); code != 1 || !strings.Contains(stderr, file+":2:8: ") || strings.Count(stderr, "\n") != 1 {
		t.Errorf("a policy that cannot be read: %d, %s", code, stderr)
	}
}

// TestPolicyReadsQUIC: the name in a client's first datagrams is what counts, and none of
// them leaves before it is known. They are those of RFC 9001 appendix A.2, for example.com.
func TestPolicyReadsQUIC(t *testing.T) {
	udp := servePacket(t, env.Net.Net, "udp4", harness.NetIPv4+":443", echoPacket)
	p := underPolicy(t, "allow example.com:443\nallow good.example:443\n")
	datagram := func(name string) string {
		return string(must(os.ReadFile(filepath.Join("..", "internal", "sniff", "testdata", name)))(t))
	}
	to := func(name string) net.Conn {
		p.zone.set(name+".", "A", name+". 60 IN A "+harness.NetIPv4)
		addr, _ := p.find(t, name, dns.TypeA)
		return p.dial(t, "udp4", net.JoinHostPort(addr, port(udp.LocalAddr())))
	}
	good, evil, parts := to("example.com"), to("good.example"), to("example.com")
	if err := answers(t, good, datagram("initial")); err != nil {
		t.Errorf("to the server that it names: %v", err)
	}
	if err := answers(t, good, "short header"); err != nil {
		t.Errorf("after that: %v", err)
	}
	if err := answers(t, evil, datagram("initial")); err == nil || os.IsTimeout(err) {
		t.Errorf("to another: %v", err)
	}
	p.wantRecord(t, "good.example", "deny", "name in the traffic")
	for _, part := range []string{"second", "first"} {
		if _, err := parts.Write([]byte(datagram("initial-" + part))); err != nil {
			t.Fatal(err)
		}
	}
	parts.SetDeadline(time.Now().Add(deadline))
	for _, part := range []string{"second", "first"} {
		b := make([]byte, 2000)
		if n, err := parts.Read(b); err != nil || string(b[:n]) != datagram("initial-"+part) {
			t.Errorf("the %s part: %d bytes, %v", part, n, err)
		}
	}
}

// TestPolicyForgetsHalfAHello: where more hellos begin than are kept, what waited for the
// rest of one does not leave with another.
func TestPolicyForgetsHalfAHello(t *testing.T) {
	udp := servePacket(t, env.Net.Net, "udp4", harness.NetIPv4+":443", echoPacket)
	p := underPolicy(t, "allow example.com:443\n")
	p.zone.set("example.com.", "A", "example.com. 60 IN A "+harness.NetIPv4)
	addr, _ := p.find(t, "example.com", dns.TypeA)
	send := func(c net.Conn, name string) string {
		t.Helper()
		datagram := must(os.ReadFile(filepath.Join("..", "internal", "sniff", "testdata", name)))(t)
		if _, err := c.Write(datagram); err != nil {
			t.Fatal(err)
		}
		return string(datagram)
	}
	const kept = 128
	var first net.Conn
	for i := range 1 + 3*kept { // of which several queues have a part each
		c := p.dial(t, "udp4", net.JoinHostPort(addr, port(udp.LocalAddr())))
		if i == 0 {
			first = c
		}
		send(c, "initial-second")
	}
	whole := send(first, "initial")
	first.SetDeadline(time.Now().Add(deadline))
	b := make([]byte, 2000)
	if n, err := first.Read(b); err != nil || string(b[:n]) != whole {
		t.Errorf("%d bytes came back first, want the %d of the whole hello: %v", n, len(whole), err)
	}
}
