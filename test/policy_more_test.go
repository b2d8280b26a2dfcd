package test

import (
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"epiphyte/test/harness"
)

// TestPolicyInward: clients of published ports are let in by where they come from. The record
// says who came, and to which server of the guest.
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
	guest := must(p.Address(tapName, f.af))(t)
	for _, tt := range []struct {
		from, port, server string
		want               bool
	}{{source, "18081", "8080", true}, {other, "18081", "8080", false}, {source, "18082", "8081", false}} {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(tt.from)}}
		c, err := env.Net.Net.DialWith(timeout(t, deadline), d, "tcp"+f.v, host+":"+tt.port)
		if err == nil {
			err = answers(t, c, "let me in")
			c.Close()
		}
		if (err == nil) != tt.want || os.IsTimeout(err) {
			t.Errorf("%s: from %s to %s: %v", mode, tt.from, tt.port, err)
		}
		verdict := map[bool]string{true: "allow", false: "deny"}[tt.want]
		eventually(t, deadline, func() error {
			list := p.records(t, net.JoinHostPort(guest.String(), tt.server))
			for _, r := range list {
				client, _, _ := net.SplitHostPort(fmt.Sprint(r["source"]))
				if client == tt.from && r["verdict"] == verdict && r["in"] == true {
					return nil
				}
			}
			return fmt.Errorf("%s: from %s to %s: recorded %v, want %s", mode, tt.from, tt.server, list, verdict)
		})
	}
}

// TestPolicyPins: with names pin a guest gets real addresses, which are allowed as long
// as they are those of an allowed name, and of the same name on the wire.
func TestPolicyPins(t *testing.T) {
	t.Parallel()
	eachFamily(t, func(t *testing.T, f family) {
		var got arrivals
		server := port(serveTLS(t, f, &tls.Config{}, &got))
		at := net.JoinHostPort(f.server, server)
		p := underPolicy(t, strings.ReplaceAll("names pin\nallow good.example:$\nallow fine.example:$\nallow own.example:$\n", "$", server))
		own, private := harness.HostIPv4, "10.0.0.1"
		if f.v == "6" {
			own, private = harness.HostIPv6, "fd12::1"
		}
		p.zone.lead(f, "own.example", own)
		p.find(t, "own.example", f.kind())
		p.wantDenied(t, "tcp"+f.v, net.JoinHostPort(own, server))
		for _, name := range []string{"good.example.", "fine.example."} {
			p.zone.set(name, f.record(), name+" 60 IN CNAME cdn.example.",
				"cdn.example. 60 IN "+f.record()+" "+f.server, "cdn.example. 60 IN "+f.record()+" "+private)
		}
		p.wantDenied(t, "tcp"+f.v, at)
		if addr, _ := p.find(t, "good.example", f.kind()); addr != f.server {
			t.Errorf("good.example has the address %s", addr)
		}
		p.find(t, "fine.example", f.kind())
		for sni, want := range map[string]bool{"good.example": true, "fine.example": true, "evil.example": false} {
			if reached := p.handshake(t, at, &tls.Config{ServerName: sni, InsecureSkipVerify: true}, 0); reached != want {
				t.Errorf("SNI %s: reached: %v", sni, reached)
			}
		}
		if seen := got.about("evil"); len(seen) > 0 {
			t.Errorf("the server was asked for %q", seen)
		}
		p.wantDenied(t, "tcp"+f.v, net.JoinHostPort(f.server, "1"))
		p.wantDenied(t, "tcp"+f.v, net.JoinHostPort(private, server))
	})
}

// TestPolicyByHTTP: the policy is shown, counted and replaced through the HTTP socket.
func TestPolicyByHTTP(t *testing.T) {
	t.Parallel()
	eachFamily(t, func(t *testing.T, f family) {
		server := serveTCP(t, env.Net.Net, "tcp"+f.v, net.JoinHostPort(f.server, "0"), echoTCP)
		p, socket := policedOverHTTP(t, "allow "+server.String()+"\n")
		if c := p.dial(t, "tcp"+f.v, server.String()); answers(t, c, "allowed") != nil {
			t.Error("not allowed")
		}
		if got := overHTTP(t, socket, "PUT", "/v1/policy", "allow *.com"); !strings.HasPrefix(got, "HTTP/1.1 400 ") {
			t.Errorf("a wrong policy: %s", got)
		}
		if got := overHTTP(t, socket, "PUT", "/v1/policy", "allow other.example:443\n"); !strings.HasPrefix(got, "HTTP/1.1 200 ") {
			t.Errorf("another policy: %s", got)
		}
		p.wantDenied(t, "tcp"+f.v, server.String())
	})
}

// TestPolicyPing: echo requests by name, and not without a rule.
func TestPolicyPing(t *testing.T) {
	t.Parallel()
	ping := needs(t, "ping")
	eachFamily(t, func(t *testing.T, f family) {
		p := underPolicy(t, "allow icmp good.example\n")
		p.zone.lead(f, "good.example", f.server)
		addr, _ := p.find(t, "good.example", f.kind())
		if out, err := p.Run(timeout(t, deadline), ping, "-n", "-c", "2", "-i", "0.2", "-W", "3", addr); err != nil {
			t.Errorf("%v: %s", err, out)
		}
		if out, err := p.Run(timeout(t, deadline), ping, "-n", "-c", "1", "-W", "2", f.server); err == nil {
			t.Errorf("a literal address: %s", out)
		}
	})
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
	t.Parallel()
	eachFamily(t, func(t *testing.T, f family) {
		at := newPlace(t).of(f)
		var got arrivals
		udp := servePacket(t, env.Net.Net, "udp"+f.v, net.JoinHostPort(at, "443"), func(b []byte, from net.Addr) []byte {
			got.note(string(b))
			return echoPacket(b, from)
		})
		p := underPolicy(t, "allow example.com:443\nallow good.example:443\n")
		to := func(name string) net.Conn {
			p.zone.lead(f, name, at)
			return p.dial(t, "udp"+f.v, p.at(t, f, name, udp.LocalAddr()))
		}
		good, evil, parts := to("example.com"), to("good.example"), to("example.com")
		if err := echoes(good, initial(t, "")); err != nil {
			t.Errorf("to the server that it names: %v", err)
		}
		if err := answers(t, good, "short header"); err != nil {
			t.Errorf("after that: %v", err)
		}
		got.clear()
		evil.SetDeadline(time.Now().Add(deadline))
		if err := echoes(evil, initial(t, "")); err == nil || os.IsTimeout(err) {
			t.Errorf("to another: %v", err)
		}
		p.wantRecord(t, "good.example", "deny", "name in the traffic")
		if seen := got.about(""); len(seen) > 0 {
			t.Errorf("%d datagrams to another reached the server", len(seen))
		}
		for _, part := range []string{"-second", "-first"} {
			if _, err := parts.Write([]byte(initial(t, part))); err != nil {
				t.Fatal(err)
			}
		}
		parts.SetDeadline(time.Now().Add(deadline))
		for _, part := range []string{"-second", "-first"} {
			b := make([]byte, 2000)
			if n, err := parts.Read(b); err != nil || string(b[:n]) != initial(t, part) {
				t.Errorf("the %s part: %d bytes, %v", part, n, err)
			}
		}
	})
}

// initial is the datagram that begins a client's QUIC for example.com, or a part of one.
func initial(t testing.TB, part string) string {
	t.Helper()
	return string(must(os.ReadFile(filepath.Join("..", "internal", "sniff", "testdata", "initial"+part)))(t))
}

// TestPolicyForgetsHalfAHello: where more hellos begin than are kept, what waited for the
// rest of one does not leave with another.
func TestPolicyForgetsHalfAHello(t *testing.T) {
	t.Parallel()
	eachFamily(t, func(t *testing.T, f family) {
		at := newPlace(t).of(f)
		udp := servePacket(t, env.Net.Net, "udp"+f.v, net.JoinHostPort(at, "443"), echoPacket)
		p := underPolicy(t, "allow example.com:443\n")
		p.zone.lead(f, "example.com", at)
		to := p.at(t, f, "example.com", udp.LocalAddr())
		send := func(c net.Conn, text string) {
			t.Helper()
			if _, err := c.Write([]byte(text)); err != nil {
				t.Fatal(err)
			}
		}
		const kept = 128
		var first net.Conn
		for i := range 1 + 3*kept { // of which several queues have a part each
			c := p.dial(t, "udp"+f.v, to)
			if i == 0 {
				first = c
			}
			send(c, initial(t, "-second"))
		}
		whole := initial(t, "")
		send(first, whole)
		first.SetDeadline(time.Now().Add(deadline))
		b := make([]byte, 2000)
		if n, err := first.Read(b); err != nil || string(b[:n]) != whole {
			t.Errorf("%d bytes came back first, want the %d of the whole hello: %v", n, len(whole), err)
		}
	})
}
