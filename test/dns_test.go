package test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"epiphyte/test/harness"
)

// nameserver answers on port 53 of an address, UDP and TCP, with whatever
// answer makes of the query's bytes; nil is silence.
type nameserver struct {
	addr string
	udp  atomic.Int32 // queries seen
	tcp  atomic.Int32
}

func serveDNS(t testing.TB, ns *harness.NetNS, addr string, answer func(query []byte, tcp bool) []byte) *nameserver {
	t.Helper()
	s := &nameserver{addr: addr}
	v := "4"
	if strings.Contains(addr, ":") {
		v = "6"
	}
	servePacket(t, ns, "udp"+v, net.JoinHostPort(addr, "53"), func(q []byte, _ net.Addr) []byte {
		s.udp.Add(1)
		return answer(bytes.Clone(q), false)
	})
	serveTCP(t, ns, "tcp"+v, net.JoinHostPort(addr, "53"), func(c *net.TCPConn) {
		for {
			q, err := readPrefixed(c)
			if err != nil {
				return
			}
			s.tcp.Add(1)
			if resp := answer(q, true); resp != nil {
				if _, err := c.Write(prefixed(resp)); err != nil {
					return
				}
			}
		}
	})
	return s
}

// prefixed and readPrefixed are DNS over TCP (RFC 1035, section 4.2.2).
func prefixed(msg []byte) []byte {
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(msg))), msg...)
}

func readPrefixed(r io.Reader) ([]byte, error) {
	var n [2]byte
	if _, err := io.ReadFull(r, n[:]); err != nil {
		return nil, err
	}
	b := make([]byte, binary.BigEndian.Uint16(n[:]))
	_, err := io.ReadFull(r, b)
	return b, err
}

// named answers A queries with an address that tells which server it was.
func named(address string) func([]byte, bool) []byte {
	return func(q []byte, _ bool) []byte {
		var m, r dns.Msg
		if err := m.Unpack(q); err != nil {
			return nil
		}
		r.SetReply(&m)
		rr, err := dns.NewRR(m.Question[0].Name + " 60 IN A " + address)
		if err != nil {
			return nil
		}
		r.Answer = append(r.Answer, rr)
		b, err := r.Pack()
		if err != nil {
			return nil
		}
		return b
	}
}

// etc makes a directory to stand for /etc with a resolv.conf in it.
func etc(t testing.TB, servers ...string) string {
	t.Helper()
	dir := t.TempDir()
	writeConf(t, filepath.Join(dir, "resolv.conf"), servers...)
	return dir
}

func writeConf(t testing.TB, path string, servers ...string) {
	t.Helper()
	text := "# written by a test\n"
	for _, s := range servers {
		text += "nameserver " + s + "\n"
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// query sends one query by UDP or TCP and gives the answer's bytes.
func (w *world) query(t testing.TB, network, server string, q []byte, patience time.Duration) ([]byte, error) {
	t.Helper()
	c, err := w.Dial(timeout(t, patience), network, net.JoinHostPort(server, "53"))
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	if strings.HasPrefix(network, "tcp") {
		if _, err := c.Write(prefixed(q)); err != nil {
			return nil, err
		}
		return readPrefixed(c)
	}
	if _, err := c.Write(q); err != nil {
		return nil, err
	}
	b := make([]byte, 1<<16)
	n, err := c.Read(b)
	return b[:n], err
}

// lookup asks for an A record and gives the response code and the address.
func (w *world) lookup(t testing.TB, network, server, name string, patience time.Duration) (rcode int, addr string, err error) {
	t.Helper()
	var m dns.Msg
	m.SetQuestion(name, dns.TypeA)
	q, err := m.Pack()
	if err != nil {
		return 0, "", err
	}
	b, err := w.query(t, network, server, q, patience)
	if err != nil {
		return 0, "", err
	}
	var r dns.Msg
	if err := r.Unpack(b); err != nil {
		return 0, "", err
	}
	if r.Id != m.Id {
		return 0, "", errors.New("the answer has another id")
	}
	for _, rr := range r.Answer {
		addr = rr.(*dns.A).A.String()
	}
	return r.Rcode, addr, nil
}

// TestB27_MessagesPassUnchanged by UDP and TCP: every type, EDNS, truncation,
// failures, and what is not even DNS beyond its header. Only the id, which is a
// matter between each pair of neighbours, may differ on the way.
func TestB27_MessagesPassUnchanged(t *testing.T) {
	w := serveWith(t, harness.HelperConfig{Etc: etc(t, "198.51.100.3", "2001:db8:2::3")})
	var query, answer atomic.Pointer[[]byte]
	reply := func(q []byte, _ bool) []byte {
		query.Store(&q)
		b := bytes.Clone(*answer.Load())
		copy(b[:2], q[:2])
		return b
	}
	serveDNS(t, env.Net.Net, "198.51.100.3", reply)
	serveDNS(t, env.Net.Net, "2001:db8:2::3", reply)
	type exchange struct{ q, a *dns.Msg }
	cases := map[string]exchange{}
	for _, typ := range []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeTXT, dns.TypeMX, dns.TypeSRV, dns.TypeHTTPS, dns.TypeANY, 65280} {
		q := new(dns.Msg).SetQuestion("name.example.", typ)
		a := new(dns.Msg).SetReply(q)
		a.Answer = []dns.RR{&dns.RFC3597{Hdr: dns.RR_Header{Name: "name.example.", Rrtype: typ, Class: dns.ClassINET, Ttl: 5}, Rdata: "0a000001"}}
		cases[fmt.Sprint("type ", typ)] = exchange{q, a}
	}
	for _, rcode := range []int{dns.RcodeServerFailure, dns.RcodeNameError, dns.RcodeRefused, dns.RcodeNotImplemented} {
		q := new(dns.Msg).SetQuestion("fails.example.", dns.TypeA)
		cases[dns.RcodeToString[rcode]] = exchange{q, new(dns.Msg).SetRcode(q, rcode)}
	}
	edns := new(dns.Msg).SetQuestion("edns.example.", dns.TypeTXT).SetEdns0(4096, true)
	big := new(dns.Msg).SetReply(edns)
	for i := range 12 {
		big.Answer = append(big.Answer, &dns.TXT{
			Hdr: dns.RR_Header{Name: "edns.example.", Rrtype: dns.TypeTXT, Class: dns.ClassINET, Ttl: uint32(i)},
			Txt: []string{strings.Repeat("x", 250)},
		})
	}
	cases["EDNS, 3 kB"] = exchange{edns, big}
	tc := new(dns.Msg).SetQuestion("truncated.example.", dns.TypeTXT)
	cut := new(dns.Msg).SetReply(tc)
	cut.Truncated = true
	cases["TC"] = exchange{tc, cut}
	eachFamily(t, func(t *testing.T, f family) {
		for name, c := range cases {
			q, a := must(c.q.Pack())(t), must(c.a.Pack())(t)
			answer.Store(&a)
			for _, network := range []string{"udp" + f.v, "tcp" + f.v} {
				got, err := w.query(t, network, f.dns, q, deadline)
				if err != nil {
					t.Errorf("%s by %s: %v", name, network, err)
					continue
				}
				if !bytes.Equal(got, a) {
					t.Errorf("%s by %s: the answer differs:\n% x\n% x", name, network, got, a)
				}
				if up := *query.Load(); !bytes.Equal(up[2:], q[2:]) {
					t.Errorf("%s by %s: the query differs:\n% x\n% x", name, network, up, q)
				}
			}
		}
	})
}

// TestB27_SeveralQueriesOnOneTCPConnection are answered, RFC 7766.
func TestB27_SeveralQueriesOnOneTCPConnection(t *testing.T) {
	w := serveWith(t, harness.HelperConfig{Etc: etc(t, "198.51.100.4")})
	serveDNS(t, env.Net.Net, "198.51.100.4", named("192.0.2.44"))
	c := w.dial(t, "tcp4", dns4+":53")
	for i := range 3 {
		m := new(dns.Msg).SetQuestion(fmt.Sprint("name", i, ".example."), dns.TypeA)
		if _, err := c.Write(prefixed(must(m.Pack())(t))); err != nil {
			t.Fatal(err)
		}
		var r dns.Msg
		if err := r.Unpack(must(readPrefixed(c))(t)); err != nil || len(r.Answer) != 1 || r.Id != m.Id {
			t.Fatalf("answer %d: %v, %v", i, &r, err)
		}
	}
}

// TestB27_StormOfQueries: 500 at once from as many sockets are all answered, if need be when
// they are asked again, as libraries do: on a busy machine the nameserver's buffer, which
// has room for some 250, may be full.
func TestB27_StormOfQueries(t *testing.T) {
	const attempts = 3
	w := serveWith(t, harness.HelperConfig{Etc: etc(t, "198.51.100.4")})
	serveDNS(t, env.Net.Net, "198.51.100.4", named("192.0.2.44"))
	before := w.usage(t)
	conns := make([]net.Conn, 500)
	q := must(new(dns.Msg).SetQuestion("storm.example.", dns.TypeA).Pack())(t)
	if err := w.Do(func() (err error) {
		for i := range conns {
			if conns[i], err = net.Dial("udp4", dns4+":53"); err != nil {
				return err
			}
			defer conns[i].Close()
		}
		open := slices.Clone(conns)
		for range attempts {
			for _, c := range open {
				if _, err := c.Write(q); err != nil {
					return err
				}
			}
			until := time.Now().Add(3 * time.Second)
			open = slices.DeleteFunc(open, func(c net.Conn) bool {
				c.SetReadDeadline(until)
				_, err := c.Read(make([]byte, 512))
				return err == nil
			})
		}
		if len(open) > 0 {
			t.Errorf("%d of %d queries are not answered", len(open), len(conns))
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if after := w.usage(t); env.Product && after.FDs > before.FDs+300 {
		t.Errorf("%d descriptors after %d queries, %d before", after.FDs, len(conns), before.FDs)
	}
}

// TestB28_ResolvConfIsFollowed however it is replaced: by the next query, or
// after the second that a cached answer about the file may be old.
func TestB28_ResolvConfIsFollowed(t *testing.T) {
	const first, second = "198.51.100.5", "198.51.100.6"
	serveDNS(t, env.Net.Net, first, named(first))
	serveDNS(t, env.Net.Net, second, named(second))
	for name, replace := range map[string]func(t *testing.T, conf string){
		"in place": func(t *testing.T, conf string) { writeConf(t, conf, second) },
		"renamed over": func(t *testing.T, conf string) {
			writeConf(t, conf+".new", second)
			if err := os.Rename(conf+".new", conf); err != nil {
				t.Fatal(err)
			}
		},
		"symlink switched": func(t *testing.T, conf string) {
			writeConf(t, conf+".second", second)
			if err := os.Symlink("resolv.conf.second", conf+".link"); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(conf+".link", conf); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := etc(t, first)
			w := serveWith(t, harness.HelperConfig{Etc: dir})
			if _, got, err := w.lookup(t, "udp4", dns4, "a.example.", deadline); err != nil || got != first {
				t.Fatalf("answered by %q, %v, want %s", got, err, first)
			}
			replace(t, filepath.Join(dir, "resolv.conf"))
			eventually(t, 10*time.Second, func() error {
				_, got, err := w.lookup(t, "udp4", dns4, "b.example.", time.Second)
				if err == nil && got != second {
					err = fmt.Errorf("answered by %s, want %s", got, second)
				}
				return err
			})
		})
	}
}

// TestB28_MissingResolvConf is SERVFAIL, never NXDOMAIN, until it appears.
func TestB28_MissingResolvConf(t *testing.T) {
	ours(t, "answer without a resolv.conf")
	const server = "198.51.100.7"
	serveDNS(t, env.Net.Net, server, named(server))
	dir := t.TempDir()
	w := serveWith(t, harness.HelperConfig{Etc: dir})
	for _, network := range []string{"udp4", "tcp4"} {
		if rcode, _, err := w.lookup(t, network, dns4, "a.example.", deadline); err != nil || rcode != dns.RcodeServerFailure {
			t.Errorf("%s: %s, %v, want SERVFAIL", network, dns.RcodeToString[rcode], err)
		}
	}
	writeConf(t, filepath.Join(dir, "resolv.conf"), server)
	eventually(t, 10*time.Second, func() error {
		_, got, err := w.lookup(t, "udp4", dns4, "b.example.", time.Second)
		if err == nil && got != server {
			err = fmt.Errorf("answered by %q", got)
		}
		return err
	})
}

// TestB29_NextNameserverAnswers within seconds when the first is dead, and the dead
// one is not asked first again and again: later answers take no such wait.
func TestB29_NextNameserverAnswers(t *testing.T) {
	ours(t, "second nameserver")
	const live = "198.51.100.8"
	serveDNS(t, env.Net.Net, live, named(live))
	for name, dead := range map[string]string{"silent": harness.SilentIPv4, "refusing": "198.51.100.9", "unreachable": harness.HostUnreachableIPv4} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := serveWith(t, harness.HelperConfig{Etc: etc(t, dead, live)})
			for _, network := range []string{"udp4", "tcp4"} {
				ask := func() time.Duration {
					begin := time.Now()
					_, got, err := w.lookup(t, network, dns4, "a.example.", deadline)
					if err != nil || got != live {
						t.Errorf("by %s answered by %q, %v, want %s", network, got, err, live)
					}
					return time.Since(begin)
				}
				first, next := ask(), ask()
				for range 4 {
					next = min(next, ask())
				}
				if late(t, first, 4*time.Second) || name == "silent" && next > first/2 {
					t.Errorf("by %s the first answer took %v, later ones %v at best", network, first, next)
				}
			}
		})
	}
}

// TestB29_EitherFamilyServesBoth: an IPv6-only resolv.conf serves the IPv4
// DNS address and the reverse.
func TestB29_EitherFamilyServesBoth(t *testing.T) {
	ours(t, "nameserver of the other family")
	const v4, v6 = "198.51.100.8", "2001:db8:2::8"
	serveDNS(t, env.Net.Net, v4, named(v4))
	serveDNS(t, env.Net.Net, v6, named("192.0.2.66"))
	for only, want := range map[string]string{v4: v4, v6: "192.0.2.66"} {
		w := serveWith(t, harness.HelperConfig{Etc: etc(t, only)})
		eachFamily(t, func(t *testing.T, f family) {
			for _, network := range []string{"udp" + f.v, "tcp" + f.v} {
				if _, got, err := w.lookup(t, network, f.dns, "a.example.", deadline); err != nil || got != want {
					t.Errorf("%s to %s with only %s: %q, %v", network, f.dns, only, got, err)
				}
			}
		})
	}
}

// TestB29_LinkLocalNameserver: the scope in resolv.conf says on which interface
// it is.
func TestB29_LinkLocalNameserver(t *testing.T) {
	ours(t, "link-local nameserver")
	var local string
	var index int
	if err := env.Net.Router.Do(func() error {
		ifi, err := net.InterfaceByName("down0")
		if err != nil {
			return err
		}
		index = ifi.Index
		addrs, err := ifi.Addrs()
		for _, a := range addrs {
			if ip, _, err := net.ParseCIDR(a.String()); err == nil && ip.IsLinkLocalUnicast() {
				local = ip.String()
			}
		}
		return err
	}); err != nil || local == "" {
		t.Fatalf("the router's link-local address is %q, %v", local, err)
	}
	serveDNS(t, env.Net.Router, fmt.Sprintf("%s%%%d", local, index), named("192.0.2.80"))
	w := serveWith(t, harness.HelperConfig{Etc: etc(t, local+"%up0")})
	for _, network := range []string{"udp4", "tcp4"} {
		if _, got, err := w.lookup(t, network, dns4, "a.example.", deadline); err != nil || got != "192.0.2.80" {
			t.Errorf("%s: %q, %v", network, got, err)
		}
	}
}

// TestB29_LoopbackResolverDespiteDisabledLoopback: 127.0.0.53 is the helper's
// to ask, not the guest's.
func TestB29_LoopbackResolverDespiteDisabledLoopback(t *testing.T) {
	serveDNS(t, env.Host, "127.0.0.53", named("192.0.2.53"))
	w := serveWith(t, harness.HelperConfig{Etc: etc(t, "127.0.0.53")}, "--disable-host-loopback")
	for _, network := range []string{"udp4", "tcp4"} {
		if _, got, err := w.lookup(t, network, dns4, "a.example.", deadline); err != nil || got != "192.0.2.53" {
			t.Errorf("%s: %q, %v", network, got, err)
		}
	}
}

// TestDisableDNS makes the DNS address an ordinary one: nobody answers there.
func TestDisableDNS(t *testing.T) {
	serveDNS(t, env.Net.Net, "198.51.100.4", named("192.0.2.44"))
	w := serveWith(t, harness.HelperConfig{Etc: etc(t, "198.51.100.4")}, "--disable-dns")
	for _, network := range []string{"udp4", "tcp4"} {
		if rcode, got, err := w.lookup(t, network, dns4, "a.example.", 500*time.Millisecond); err == nil {
			t.Errorf("%s: answered %s %q", network, dns.RcodeToString[rcode], got)
		}
	}
}
