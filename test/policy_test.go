package test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"

	"epiphyte/test/harness"
)

// policed is a guest under a policy, and the only nameserver of its host.
type policed struct {
	*world
	file string // the policy
	log  string
	zone *zone
}

// nameservers are those of all tests so far.
var nameservers atomic.Uint32

// zone is what the nameserver knows, and what it was asked.
type zone struct {
	at      string // the nameserver's address
	mu      sync.Mutex
	records map[string][]string // by name and type: "a.example. A"
	asked   []string
	silent  string // what it does not answer for
}

// answer implements the nameserver: NXDOMAIN for what it does not know.
func (z *zone) answer(q []byte, _ bool) []byte {
	var m, r dns.Msg
	if m.Unpack(q) != nil || len(m.Question) != 1 {
		return nil
	}
	z.mu.Lock()
	defer z.mu.Unlock()
	asked := m.Question[0]
	z.asked = append(z.asked, asked.Name+" "+dns.TypeToString[asked.Qtype])
	if asked.Name == z.silent {
		return nil
	}
	r.SetReply(&m)
	known := false
	for key := range z.records {
		known = known || strings.HasPrefix(key, asked.Name+" ")
	}
	if !known {
		r.Rcode = dns.RcodeNameError
	}
	for _, s := range z.records[asked.Name+" "+dns.TypeToString[asked.Qtype]] {
		rr, err := dns.NewRR(s)
		if err != nil {
			return nil
		}
		r.Answer = append(r.Answer, rr)
	}
	b, _ := r.Pack()
	return b
}

// set replaces the records of a name and type.
func (z *zone) set(name, kind string, records ...string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.records[name+" "+kind] = records
}

// lead has a name lead to an address of a family.
func (z *zone) lead(f family, name, addr string) {
	z.set(name+".", f.record(), name+". 60 IN "+f.record()+" "+addr)
}

func (z *zone) queries() []string {
	z.mu.Lock()
	defer z.mu.Unlock()
	return append([]string(nil), z.asked...)
}

// underPolicy serves a guest under a policy.
func underPolicy(t testing.TB, text string, flags ...string) *policed {
	t.Helper()
	// An address of its own for each, so that tests may run beside each other.
	n := nameservers.Add(1)
	z := &zone{records: map[string][]string{}, at: fmt.Sprintf("127.53.%d.%d", n>>8, n&0xff)}
	serveDNS(t, env.Host, z.at, z.answer)
	return policedBy(t, z, text, flags...)
}

// policedBy is underPolicy with a nameserver that there is.
func policedBy(t testing.TB, z *zone, text string, flags ...string) *policed {
	t.Helper()
	ours(t, "policy")
	p := &policed{zone: z}
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil { // a plain user writes here
		t.Fatal(err)
	}
	p.file, p.log = filepath.Join(dir, "policy"), filepath.Join(dir, "log")
	writeFile(t, p.file, text)
	p.world = serveWith(t, harness.HelperConfig{Etc: etcWith(t, z.at)}, append([]string{"--policy", p.file, "--policy-log", p.log}, flags...)...)
	return p
}

// ask asks the resolver as the guest.
func (p *policed) ask(t testing.TB, name string, kind uint16) (a dns.Msg) {
	t.Helper()
	q := new(dns.Msg).SetQuestion(dns.Fqdn(name), kind)
	q.SetEdns0(1232, false)
	b, err := q.Pack()
	if err != nil {
		t.Fatal(err)
	}
	b, err = p.query(t, "udp4", dns4, b, deadline)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if err := a.Unpack(b); err != nil {
		t.Fatal(err)
	}
	return a
}

// find asks for a name's address of a family as the guest.
func (p *policed) find(t testing.TB, name string, kind uint16) (addr string, rcode int) {
	t.Helper()
	a := p.ask(t, name, kind)
	for _, rr := range a.Answer {
		switch rr := rr.(type) {
		case *dns.A:
			return rr.A.String(), a.Rcode
		case *dns.AAAA:
			return rr.AAAA.String(), a.Rcode
		}
	}
	return "", a.Rcode
}

// at is a name's address of a family, and the port of a server.
func (p *policed) at(t testing.TB, f family, name string, server net.Addr) string {
	t.Helper()
	addr, _ := p.find(t, name, f.kind())
	if addr == "" {
		t.Fatalf("%s has no address", name)
	}
	return hostPort(addr, server)
}

// connect dials a name, by its address of a family.
func (p *policed) connect(t testing.TB, name string, kind uint16, port string) (net.Conn, error) {
	t.Helper()
	addr, _ := p.find(t, name, kind)
	if addr == "" {
		t.Fatalf("%s has no address", name)
	}
	return p.dialFor(t, "tcp", net.JoinHostPort(addr, port))
}

// dialFor dials, and wants an answer at once: no timeout.
func (p *policed) dialFor(t testing.TB, network, addr string) (net.Conn, error) {
	t.Helper()
	c, err := p.Dial(timeout(t, deadline), network, addr)
	if err == nil {
		t.Cleanup(func() { c.Close() })
	}
	if errors.Is(err, context.DeadlineExceeded) || os.IsTimeout(err) {
		t.Errorf("%s: no answer: %v", addr, err)
	}
	return c, err
}

// wantDenied dials and wants to be refused.
func (p *policed) wantDenied(t testing.TB, network, addr string) {
	t.Helper()
	if c, err := p.dialFor(t, network, addr); err == nil {
		t.Errorf("%s to %s is let through (%v)", network, addr, c.RemoteAddr())
	} else if !isErrno(err, syscall.EHOSTUNREACH, syscall.EACCES, syscall.ENETUNREACH) {
		t.Errorf("%s to %s: %v", network, addr, err)
	}
}

// records are the lines of the log about a name, or a destination that no name led to.
func (p *policed) records(t testing.TB, about string) (list []map[string]any) {
	t.Helper()
	f, err := os.Open(p.log)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var r map[string]any
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			t.Fatalf("%s: %v", lines.Text(), err)
		}
		if r["name"] == about || r["name"] == nil && r["destination"] == about {
			list = append(list, r)
		}
	}
	return list
}

// wantRecord waits for a line with a verdict and a reason.
func (p *policed) wantRecord(t testing.TB, about, verdict, reason string) {
	t.Helper()
	eventually(t, deadline, func() error {
		list := p.records(t, about)
		for _, r := range list {
			if r["verdict"] == verdict && r["reason"] == reason {
				return nil
			}
		}
		return fmt.Errorf("records of %s: %v, want %s, %s", about, list, verdict, reason)
	})
}

// answers sends a line and wants it back in time. What has no end could be the beginning of
// a request, and would be held.
func answers(t testing.TB, c net.Conn, text string) error {
	t.Helper()
	c.SetDeadline(time.Now().Add(deadline))
	return echoes(c, text+"\n")
}

// TestPolicyByName: a guest reaches a name that is allowed, by either family whatever
// the server's, by aliases, and nothing else.
func TestPolicyByName(t *testing.T) {
	t.Parallel()
	tcp4 := serveTCP(t, env.Net.Net, "tcp4", harness.NetIPv4+":0", echoTCP)
	tcp6 := serveTCP(t, env.Net.Net, "tcp6", "["+harness.NetIPv6+"]:0", echoTCP)
	p := underPolicy(t, fmt.Sprintf("allow four.example:%s\nallow six.example:%s\nallow *.wild.example\ndeny not.wild.example\n", port(tcp4), port(tcp6)))
	p.zone.set("four.example.", "A", "four.example. 60 IN CNAME cdn.example.", "cdn.example. 60 IN A "+harness.NetIPv4)
	p.zone.set("six.example.", "AAAA", "six.example. 60 IN AAAA "+harness.NetIPv6)
	p.zone.set("a.b.wild.example.", "A", "a.b.wild.example. 60 IN A "+harness.NetIPv4)
	for name, at := range map[string]string{"four.example": port(tcp4), "SIX.example.": port(tcp6), "a.b.wild.example": port(tcp4)} {
		for _, kind := range []uint16{dns.TypeA, dns.TypeAAAA} {
			c, err := p.connect(t, name, kind, at)
			if err == nil {
				err = answers(t, c, "hello "+name)
			}
			if err != nil {
				t.Errorf("%s, %s: %v", name, dns.TypeToString[kind], err)
			}
		}
	}
	for _, name := range []string{"other.example", "x.four.example", "wild.example", "not.wild.example"} {
		if addr, rcode := p.find(t, name, dns.TypeA); addr != "" || rcode != dns.RcodeNameError {
			t.Errorf("%s is %q, %s", name, addr, dns.RcodeToString[rcode])
		}
		p.wantRecord(t, name, "deny", map[bool]string{true: "rule", false: "default"}[name == "not.wild.example"])
	}
	addr, _ := p.find(t, "four.example", dns.TypeA)
	p.wantDenied(t, "tcp4", net.JoinHostPort(addr, "9"))
	p.wantDenied(t, "tcp4", "198.18.77.77:443")
}

// TestPolicyKeepsNamesIn: whatever is asked about a name that is not allowed, no packet
// leaves for it; nor for one that is, before it is connected to.
func TestPolicyKeepsNamesIn(t *testing.T) {
	p := underPolicy(t, "allow good.example:443\n")
	secret := strings.Repeat(strings.Repeat("s", 60)+".", 3) + "evil.example"
	for _, name := range []string{secret, "evil.example", "x.good.example", "good.example", "1.2.3.4.in-addr.arpa"} {
		for _, kind := range []uint16{dns.TypeTXT, dns.TypeA, dns.TypeAAAA, dns.TypeMX, dns.TypeNS, dns.TypeANY, dns.TypePTR} {
			p.find(t, name, kind)
		}
	}
	if asked := p.zone.queries(); len(asked) > 0 {
		t.Errorf("the nameserver was asked %v", asked)
	}
	p.find(t, "GOOD.example", dns.TypeHTTPS)
	if asked := p.zone.queries(); len(asked) != 1 || asked[0] != "good.example. HTTPS" {
		t.Errorf("the nameserver was asked %v", asked)
	}
}

// TestPolicyClosesOtherWays: addresses that came from no name, other resolvers and DNS
// over TLS, of both families.
func TestPolicyClosesOtherWays(t *testing.T) {
	tcp4 := serveTCP(t, env.Net.Net, "tcp4", harness.NetIPv4+":0", echoTCP)
	tcp6 := serveTCP(t, env.Net.Net, "tcp6", "["+harness.NetIPv6+"]:0", echoTCP)
	p := underPolicy(t, "allow good.example\nallow "+harness.OtherIPv4+"\n")
	p.wantDenied(t, "tcp4", tcp4.String())
	p.wantDenied(t, "tcp6", tcp6.String())
	for _, at := range []string{harness.NetIPv4 + ":53", "[" + harness.NetIPv6 + "]:53", harness.OtherIPv4 + ":53", harness.OtherIPv4 + ":853", "10.0.2.2:80", harness.HostIPv4 + ":80"} {
		p.wantDenied(t, "tcp", at)
	}
	udp := servePacket(t, env.Net.Net, "udp4", harness.OtherIPv4+":53", echoPacket)
	c := p.dial(t, "udp4", udp.LocalAddr().String())
	if err := answers(t, c, "query"); err == nil || os.IsTimeout(err) {
		t.Errorf("another resolver: %v, want to be refused at once", err)
	}
	p.wantRecord(t, udp.LocalAddr().String(), "deny", "other resolver")
	p.wantRecord(t, tcp4.String(), "deny", "default")
}

// TestPolicyWhereNamesLead: an allowed name does not open the metadata service, the host
// or a private network, however its nameserver answers, from one time to the next.
func TestPolicyWhereNamesLead(t *testing.T) {
	t.Parallel()
	tcp4 := serveTCP(t, env.Net.Net, "tcp4", harness.NetIPv4+":0", echoTCP)
	p := underPolicy(t, "allow *.good.example\nallow 10.66.0.0/16:80\n")
	for i, addr := range []string{"169.254.169.254", "127.0.0.1", harness.HostIPv4, "10.0.0.1", "100.64.0.1", "0.0.0.0", "10.0.2.2", "198.18.0.1"} {
		name := fmt.Sprintf("n%d.good.example", i)
		p.zone.set(name+".", "A", name+". 60 IN A "+addr)
		p.find(t, name, dns.TypeA)
		synthetic, _ := p.find(t, name, dns.TypeA)
		p.wantDenied(t, "tcp4", net.JoinHostPort(synthetic, "80"))
		p.wantRecord(t, name, "deny", "address not public")
	}
	for i, addr := range []string{"::1", "fd00:ec2::254", "fd12::1", harness.HostIPv6, "64:ff9b::a9fe:a9fe", "::c000:201"} {
		name := fmt.Sprintf("s%d.good.example", i)
		p.zone.set(name+".", "AAAA", name+". 60 IN AAAA "+addr)
		synthetic, _ := p.find(t, name, dns.TypeAAAA)
		p.wantDenied(t, "tcp6", net.JoinHostPort(synthetic, "80"))
		p.wantRecord(t, name, "deny", "address not public")
	}
	// It was good, and is another after its time.
	p.zone.set("r.good.example.", "A", "r.good.example. 1 IN A "+harness.NetIPv4)
	c, err := p.connect(t, "r.good.example", dns.TypeA, port(tcp4))
	if err == nil {
		err = answers(t, c, "first")
	}
	if err != nil {
		t.Fatal(err)
	}
	p.zone.set("r.good.example.", "A", "r.good.example. 1 IN A "+harness.HostIPv4)
	eventually(t, deadline, func() error {
		c, err := p.connect(t, "r.good.example", dns.TypeA, port(tcp4))
		if err != nil {
			return nil
		}
		c.Close()
		return errors.New("the name still leads where it did")
	})
	p.wantRecord(t, "r.good.example", "deny", "address not public")
}

// certificate is one for any name, made for the test.
func certificate(t testing.TB) tls.Certificate {
	t.Helper()
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der := must(x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key))(t)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// TestPolicyReadsTLS: two names share an address and one is allowed: the name in the
// hello is what counts, however the hello is split.
func TestPolicyReadsTLS(t *testing.T) {
	t.Parallel()
	eachFamily(t, func(t *testing.T, f family) {
		var got arrivals
		server := serveTLS(t, f, &tls.Config{}, &got)
		p := underPolicy(t, "allow good.example:"+port(server)+"\ndeny evil.example\n")
		p.zone.lead(f, "good.example", f.server)
		for _, tt := range []struct {
			sni    string
			size   int // of records
			denied bool
		}{
			{"good.example", 0, false}, {"GOOD.example", 1, false}, {"", 0, false},
			{"evil.example", 0, true}, {"other.example", 1, true},
		} {
			cfg := &tls.Config{ServerName: tt.sni, InsecureSkipVerify: true}
			if reached := p.handshake(t, p.at(t, f, "good.example", server), cfg, tt.size); reached == tt.denied {
				t.Errorf("SNI %q: reached: %v", tt.sni, reached)
			}
			if tt.denied {
				p.wantRecord(t, "good.example", "deny", "name in the traffic")
			}
		}
	})
}

// TestPolicyReadsHTTP: likewise the Host of a request in the clear, however it is written.
func TestPolicyReadsHTTP(t *testing.T) {
	t.Parallel()
	eachFamily(t, func(t *testing.T, f family) {
		server := serveTCP(t, env.Net.Net, "tcp"+f.v, net.JoinHostPort(f.server, "0"), echoTCP)
		p := underPolicy(t, "allow good.example\n")
		p.zone.lead(f, "good.example", f.server)
		const from = "GET / HTTP/1.1\r\nHost: "
		for request, want := range map[string]bool{
			from + "good.example": true, from + "Good.Example:80": true, from + "good.example.": true,
			from + "evil.example": false, from + "good.example\r\nHost: evil.example": false, from + "good.example..": false,
			from + "[fe80::1%25lo]": false, from + f.server: false, from + "good.example\x00evil": false, from + "gоod.example": false,
			"\r\n\r\n\r\n\r\n\r\n" + from + "evil.example": false, "get / HTTP/1.1\r\nHost: evil.example": false,
			"GET / HTTP/1.3\r\nHost: evil.example": false, "GET http://evil.example/ HTTP/1.1\r\nHost: good.example": false,
		} {
			c, err := p.connect(t, "good.example", f.kind(), port(server))
			if err == nil {
				err = answers(t, c, request+"\r\n\r\n")
			}
			if (err == nil) != want || os.IsTimeout(err) {
				t.Errorf("%q: %v", request, err)
			}
		}
	})
}

// TestPolicyDatagrams: a name is reached by UDP, and answers by the address that was
// asked; others do not.
func TestPolicyDatagrams(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		udp := servePacket(t, env.Net.Net, "udp"+f.v, net.JoinHostPort(f.server, "0"), echoPacket)
		p := underPolicy(t, "allow udp good.example:"+port(udp.LocalAddr())+"\n")
		p.zone.lead(f, "good.example", f.server)
		addr, _ := p.find(t, "good.example", f.kind())
		c := p.dial(t, "udp"+f.v, net.JoinHostPort(addr, port(udp.LocalAddr())))
		for _, text := range []string{"first", "second", "third"} {
			if err := answers(t, c, text); err != nil {
				t.Fatal(err)
			}
		}
		denied := p.dial(t, "udp"+f.v, net.JoinHostPort(f.server, port(udp.LocalAddr())))
		if err := answers(t, denied, "literal"); err == nil || os.IsTimeout(err) {
			t.Errorf("a literal address: %v, want to be refused at once", err)
		}
	})
}

// TestPolicyReload: SIGHUP has another policy decide, an invalid one leaves what there
// is, and flows go on or end as the policy says.
func TestPolicyReload(t *testing.T) {
	t.Parallel()
	eachFamily(t, func(t *testing.T, f family) {
		server := serveTCP(t, env.Net.Net, "tcp"+f.v, net.JoinHostPort(f.server, "0"), echoTCP)
		p := underPolicy(t, "allow "+server.String()+"\n")
		allowed := func(want bool) {
			t.Helper()
			eventually(t, deadline, func() error {
				c, err := p.Dial(timeout(t, deadline), "tcp"+f.v, server.String())
				if err == nil {
					c.Close()
				}
				if (err == nil) != want {
					return fmt.Errorf("new connections: %v, want %v", err, want)
				}
				return nil
			})
		}
		old := p.dial(t, "tcp"+f.v, server.String())
		if err := answers(t, old, "before"); err != nil {
			t.Fatal(err)
		}
		p.replace(t, "allow nothing.example:443\n")
		allowed(false)
		if err := answers(t, old, "kept"); err != nil {
			t.Errorf("with flows keep, an old connection: %v", err)
		}
		p.replace(t, "allow "+server.String()+"\nallow *.com\n")
		eventually(t, deadline, func() error {
			if s := p.helper.Stderr.String(); !strings.Contains(s, p.file+":2:9: ") {
				return fmt.Errorf("stderr: %s", s)
			}
			return nil
		})
		allowed(false)
		p.replace(t, "allow nothing.example:443\nflows kill\n")
		eventually(t, deadline, func() error {
			err := answers(t, old, "killed")
			if errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
				return nil
			}
			return fmt.Errorf("with flows kill, an old connection: %v", err)
		})
		p.replace(t, "allow "+server.String()+"\n")
		allowed(true)
	})
}

// TestPolicyLearn: under learn everything passes, and what suggest makes of the record
// is a policy that allows it.
func TestPolicyLearn(t *testing.T) {
	t.Parallel()
	eachFamily(t, func(t *testing.T, f family) {
		server := serveTCP(t, env.Net.Net, "tcp"+f.v, net.JoinHostPort(f.server, "0"), echoTCP)
		p := underPolicy(t, "default deny\nlearn\n")
		p.zone.lead(f, "new.example", f.server)
		reach := func(p *policed) {
			t.Helper()
			for _, dial := range []func() (net.Conn, error){
				func() (net.Conn, error) { return p.connect(t, "new.example", f.kind(), port(server)) },
				func() (net.Conn, error) { return p.dialFor(t, "tcp"+f.v, server.String()) },
			} {
				c, err := dial()
				if err == nil {
					err = answers(t, c, "learned")
				}
				if err != nil {
					t.Fatal(err)
				}
				c.Close()
			}
		}
		reach(p)
		p.wantRecord(t, "new.example", "learn", "default")
		p.wantRecord(t, server.String(), "learn", "default")
		h, err := env.Start(timeout(t, deadline), harness.HelperConfig{Args: []string{"policy", "suggest", p.log}, NoWait: true, Plain: true})
		if err != nil {
			t.Fatal(err)
		}
		if code, _, err := h.Exit(timeout(t, deadline)); err != nil || code != 0 {
			t.Fatalf("suggest: %d, %v: %s", code, err, h.Stderr)
		}
		want := fmt.Sprintf("allow tcp new.example:%s\nallow tcp %s\n", port(server), server)
		if h.Stdout.String() != want {
			t.Errorf("suggested %q, want %q", h.Stdout, want)
		}
		taught := policedBy(t, p.zone, h.Stdout.String())
		reach(taught)
		taught.wantDenied(t, "tcp"+f.v, net.JoinHostPort(f.server, "1"))
	})
}
