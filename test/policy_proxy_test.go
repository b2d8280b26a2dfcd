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

	"epiphyte/test/harness"
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
	up, err := env.Net.Net.Dial(context.Background(), "tcp4", p.server)
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
	case 1:
		io.ReadFull(r, b[5:8])
		host = net.IP(b[4:8]).String()
	}
	io.ReadFull(r, b[:2])
	return fmt.Sprintf("%s:%d", host, binary.BigEndian.Uint16(b[:2]))
}

const banner = "220 hello\n"

// TestPolicyByProxy: flows of a rule go by the user's proxy, which gets the name, and no
// nameserver is asked; what the proxy refuses is refused at once, and so is everything
// while there is none.
func TestPolicyByProxy(t *testing.T) {
	echo := serveTCP(t, env.Net.Net, "tcp4", harness.NetIPv4+":0", func(c *net.TCPConn) {
		io.WriteString(c, banner)
		echoTCP(c)
	})
	for _, kind := range []string{"socks5", "http-connect", "unix"} {
		t.Run(kind, func(t *testing.T) {
			server := &proxyServer{server: echo.String()}
			at := kind + "://"
			if kind == "unix" {
				dir := must(os.MkdirTemp("", "proxy-"))(t)
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
						go func() { defer c.Close(); server.serve(c) }()
					}
				}()
				at = "unix:" + path
			} else {
				at += serveTCP(t, env.Net.Net, "tcp4", harness.NetIPv4+":0", func(c *net.TCPConn) { server.serve(c) }).String()
			}
			p := underPolicy(t, fmt.Sprintf("allow *.example:22 via %s\nallow 192.0.2.0/24 via %s\nallow none.test:22 via socks5://%s:1\n", at, at, harness.NetIPv4))
			for name, kind := range map[string]uint16{"git.example": dns.TypeA, "git6.example": dns.TypeAAAA} {
				c, err := p.connect(t, name, kind, "22")
				if err != nil {
					t.Fatal(err)
				}
				c.SetDeadline(time.Now().Add(deadline))
				got := make([]byte, len(banner))
				if _, err := io.ReadFull(c, got); err != nil || string(got) != banner {
					t.Errorf("%s says %q first, %v", name, got, err)
				}
				if err := echoesWhole(c, random(1, 300_000)); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
			if _, err := p.dialFor(t, "tcp4", "192.0.2.7:80"); err != nil {
				t.Errorf("an address: %v", err)
			}
			for _, name := range []string{"forbidden.example", "none.test"} {
				if _, err := p.connect(t, name, dns.TypeA, "22"); err == nil {
					t.Errorf("%s is reached", name)
				}
			}
			addr, _ := p.find(t, "git.example", dns.TypeA)
			if c := p.dial(t, "udp4", addr+":22"); answers(t, c, "hello") == nil {
				t.Error("a datagram is answered")
			}
			heard := server.heard()
			for _, want := range []string{"git.example:22", "git6.example:22", "192.0.2.7:80", "forbidden.example:22"} {
				if !strings.Contains(heard, want) {
					t.Errorf("the proxy was asked for %s, not for %s", heard, want)
				}
			}
			if q := p.zone.queries(); len(q) > 0 {
				t.Errorf("the nameserver was asked %v", q)
			}
		})
	}
}

// TestPolicyByNamedProxy: a proxy has a name, which is looked up, and may be on the host.
func TestPolicyByNamedProxy(t *testing.T) {
	echo := serveTCP(t, env.Net.Net, "tcp4", harness.NetIPv4+":0", func(c *net.TCPConn) {
		io.WriteString(c, banner)
		echoTCP(c)
	})
	server := &proxyServer{server: echo.String()}
	outside := serveTCP(t, env.Net.Net, "tcp4", harness.NetIPv4+":0", func(c *net.TCPConn) { server.serve(c) })
	local := serveTCP(t, env.Host, "tcp4", "127.0.0.1:0", func(c *net.TCPConn) { server.serve(c) })
	p := underPolicy(t, "allow a.example:22 via socks5://proxy.corp.test:"+port(outside)+"\nallow b.example:22 via http-connect://localhost:"+port(local)+"\n")
	p.zone.set("proxy.corp.test.", "A", "proxy.corp.test. 60 IN A "+harness.NetIPv4)
	for _, name := range []string{"a.example", "b.example"} {
		c, err := p.connect(t, name, dns.TypeA, "22")
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(deadline))
		got := make([]byte, len(banner))
		if _, err := io.ReadFull(c, got); err != nil || string(got) != banner {
			t.Errorf("%s says %q first, %v", name, got, err)
		}
	}
	if _, rcode := p.find(t, "proxy.corp.test", dns.TypeA); rcode != dns.RcodeNameError {
		t.Errorf("the guest finds the proxy: %s", dns.RcodeToString[rcode])
	}
}
