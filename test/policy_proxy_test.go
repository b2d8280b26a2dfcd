package test

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// proxyServer is a proxy of the user's: SOCKS5 or CONNECT, as a client begins. It connects
// to names itself, all of which are one server, and remembers them.
type proxyServer struct {
	server string
	mu     sync.Mutex
	asked  []string
}

func (p *proxyServer) heard() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.asked, " ")
}

// serve is one client's connection.
func (p *proxyServer) serve(c net.Conn) {
	r := bufio.NewReader(c)
	first, err := r.Peek(1)
	if err != nil {
		return
	}
	at, granted, denied := "", "HTTP/1.1 200 OK\r\nVia: test\r\n\r\n", "HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n"
	if first[0] == 5 {
		granted, denied = "\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00", "\x05\x02\x00\x01\x00\x00\x00\x00\x00\x00"
		at = socksDestination(r, c)
	} else if req, err := http.ReadRequest(r); err == nil {
		at = req.Host
	}
	p.mu.Lock()
	p.asked = append(p.asked, at)
	p.mu.Unlock()
	if strings.HasPrefix(at, "forbidden.") {
		io.WriteString(c, denied)
		return
	}
	up, err := env.Net.Net.Dial(context.Background(), "tcp", p.server)
	if err != nil {
		return
	}
	defer up.Close()
	// The server speaks first: its words may come together with the proxy's.
	greeting := make([]byte, len(banner))
	io.ReadFull(up, greeting)
	io.WriteString(c, granted+string(greeting))
	go func() {
		io.Copy(up, r)
		up.(*net.TCPConn).CloseWrite()
	}()
	io.Copy(c, up)
}

// socksDestination reads a client's part of SOCKS5 up to its destination.
func socksDestination(r *bufio.Reader, c net.Conn) string {
	var b [300]byte
	io.ReadFull(r, b[:3])
	io.WriteString(c, "\x05\x00")
	io.ReadFull(r, b[:5])
	host := ""
	switch b[3] {
	case 3:
		n := int(b[4])
		io.ReadFull(r, b[:n])
		host = string(b[:n])
	case 1, 4:
		n := 4 * int(b[3]) // of IPv4 and IPv6, RFC 1928 section 5
		io.ReadFull(r, b[5:4+n])
		host = net.IP(b[4 : 4+n]).String()
	}
	io.ReadFull(r, b[:2])
	return net.JoinHostPort(host, fmt.Sprint(binary.BigEndian.Uint16(b[:2])))
}

const banner = "220 hello\n"

// TestPolicyByProxy: flows of a rule go by the user's proxy, which gets the name, and no
// nameserver is asked; what the proxy refuses is refused at once, and so is everything
// while there is none.
func TestPolicyByProxy(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"socks5", "http-connect", "unix"} {
		t.Run(kind, func(t *testing.T) {
			eachFamily(t, func(t *testing.T, f family) { byProxy(t, f, kind) })
		})
	}
}

func byProxy(t *testing.T, f family, kind string) {
	server := &proxyServer{server: serveBanner(t, f).String()}
	at := server.listen(t, f, kind)
	literal, prefix := "192.0.2.7", "192.0.2.0/24"
	if f.v == "6" {
		literal, prefix = "2001:db8:7::7", "2001:db8:7::/64"
	}
	p := underPolicy(t, fmt.Sprintf("allow *.example:22 via %s\nallow %s via %s\nallow none.test:22 via socks5://%s\n",
		at, prefix, at, net.JoinHostPort(f.server, "1")))
	for _, name := range []string{"git.example", "other.example"} {
		c, err := p.connect(t, name, f.kind(), "22")
		if err != nil {
			t.Fatal(err)
		}
		wantBanner(t, c)
		if err := echoesWhole(c, random(1, 300_000)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := p.dialFor(t, "tcp"+f.v, net.JoinHostPort(literal, "80")); err != nil {
		t.Errorf("an address: %v", err)
	}
	for _, name := range []string{"forbidden.example", "none.test"} {
		if _, err := p.connect(t, name, f.kind(), "22"); err == nil {
			t.Errorf("%s is reached", name)
		}
	}
	addr, _ := p.find(t, "git.example", f.kind())
	if c := p.dial(t, "udp"+f.v, net.JoinHostPort(addr, "22")); answers(t, c, "hello") == nil {
		t.Error("a datagram is answered")
	}
	heard := server.heard()
	for _, want := range []string{"git.example:22", "other.example:22", net.JoinHostPort(literal, "80"), "forbidden.example:22"} {
		if !strings.Contains(heard, want) {
			t.Errorf("the proxy was asked for %s, not for %s", heard, want)
		}
	}
	if q := p.zone.queries(); len(q) > 0 {
		t.Errorf("the nameserver was asked %v", q)
	}
}

// listen serves the proxy at an address of a family, or at a Unix socket, and is how a rule
// says where.
func (p *proxyServer) listen(t testing.TB, f family, kind string) string {
	t.Helper()
	if kind != "unix" {
		return kind + "://" + serveTCP(t, env.Net.Net, "tcp"+f.v, net.JoinHostPort(f.server, "0"), func(c *net.TCPConn) { p.serve(c) }).String()
	}
	dir := must(os.MkdirTemp("", "proxy-"))(t) // a test's own is too long for a socket
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "sock")
	l := must(net.Listen("unix", path))(t)
	t.Cleanup(func() { l.Close() })
	for _, name := range []string{dir, path} {
		if err := os.Chmod(name, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); p.serve(c) }()
		}
	}()
	return "unix:" + path
}

// serveBanner is a server that speaks first, and then echoes.
func serveBanner(t testing.TB, f family) net.Addr {
	return serveTCP(t, env.Net.Net, "tcp"+f.v, net.JoinHostPort(f.server, "0"), func(c *net.TCPConn) {
		io.WriteString(c, banner)
		echoTCP(c)
	})
}

func wantBanner(t testing.TB, c net.Conn) {
	t.Helper()
	c.SetDeadline(time.Now().Add(deadline))
	got := make([]byte, len(banner))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != banner {
		t.Errorf("%v says %q first, %v", c.RemoteAddr(), got, err)
	}
}

// TestPolicyByNamedProxy: a proxy has a name, which is looked up, and may be on the host.
func TestPolicyByNamedProxy(t *testing.T) {
	t.Parallel()
	eachFamily(t, func(t *testing.T, f family) {
		server := &proxyServer{server: serveBanner(t, f).String()}
		_, outside, _ := strings.Cut(server.listen(t, f, "socks5"), "://")
		local := serveTCP(t, env.Host, "tcp"+f.v, net.JoinHostPort(f.loop, "0"), func(c *net.TCPConn) { server.serve(c) })
		_, number, _ := net.SplitHostPort(outside)
		p := underPolicy(t, "allow a.example:22 via socks5://proxy.corp.test:"+number+"\nallow b.example:22 via http-connect://localhost:"+port(local)+"\n")
		p.zone.lead(f, "proxy.corp.test", f.server)
		for _, name := range []string{"a.example", "b.example"} {
			c, err := p.connect(t, name, f.kind(), "22")
			if err != nil {
				t.Fatal(err)
			}
			wantBanner(t, c)
		}
		if _, rcode := p.find(t, "proxy.corp.test", f.kind()); rcode != dns.RcodeNameError {
			t.Errorf("the guest finds the proxy: %s", dns.RcodeToString[rcode])
		}
	})
}
