package test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"

	"epiphyte/test/harness"
)

// replace has another text be the policy, as SIGHUP makes it; wait for what it changes.
func (p *policed) replace(t testing.TB, text string) {
	t.Helper()
	writeFile(t, p.file, text)
	if err := p.helper.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
}

// load sends and takes back through an echo server for as long as that works.
type load struct {
	rounds atomic.Int64
	ended  chan error
}

func loadOver(t testing.TB, c net.Conn) *load {
	x := &load{ended: make(chan error, 1)}
	c.SetDeadline(time.Now().Add(time.Minute))
	want := random(1, 1<<18)
	go func() {
		got := make([]byte, len(want))
		for {
			sent := make(chan error, 1)
			go func() {
				_, err := c.Write(want)
				sent <- err
			}()
			_, err := io.ReadFull(c, got)
			if err == nil && !bytes.Equal(got, want) {
				err = errors.New("other bytes came back")
			}
			if err != nil {
				c.Close()
				x.ended <- errors.Join(err, <-sent) // either of them is told of a reset
				return
			}
			<-sent
			x.rounds.Add(1)
		}
	}()
	t.Cleanup(func() { c.Close() })
	return x
}

// goesOn wants several more rounds.
func (x *load) goesOn(t testing.TB) {
	t.Helper()
	before := x.rounds.Load()
	eventually(t, deadline, func() error {
		select {
		case err := <-x.ended:
			t.Fatalf("after %d rounds: %v", x.rounds.Load(), err)
		default:
		}
		if n := x.rounds.Load() - before; n < 3 {
			return fmt.Errorf("%d rounds more", n)
		}
		return nil
	})
}

// isReset wants an end by a reset.
func (x *load) isReset(t testing.TB) {
	t.Helper()
	select {
	case err := <-x.ended:
		if !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
			t.Errorf("after %d rounds: %v, want a reset", x.rounds.Load(), err)
		}
	case <-time.After(deadline):
		t.Errorf("it goes on: %d rounds", x.rounds.Load())
	}
}

// TestPolicyChangesDuringTransfers: what was allowed goes on under a policy that denies it,
// and ends at once under one that says so, whoever has begun it and whatever it is; whether
// the policy comes by a signal or by the HTTP socket.
func TestPolicyChangesDuringTransfers(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"direct", "stack"} {
		t.Run(mode, func(t *testing.T) {
			eachFamily(t, func(t *testing.T, f family) { changesDuringTransfers(t, f, mode) })
		})
	}
}

func changesDuringTransfers(t *testing.T, f family, mode string) {
	host, any := harness.HostIPv4, "0.0.0.0"
	if f.v == "6" {
		host, any = "["+harness.HostIPv6+"]", "::"
	}
	server := serveTCP(t, env.Net.Net, "tcp"+f.v, net.JoinHostPort(f.server, "0"), echoTCP)
	datagrams := servePacket(t, env.Net.Net, "udp"+f.v, net.JoinHostPort(f.server, "0"), echoPacket)
	const allow = "allow good.example\nallow in from public to 8080\n"
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil { // a plain user makes the socket
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "http")
	p := underPolicy(t, allow, "--http-socket", socket, "--publish-mode", mode, "-p", host+":18083:8080", "-p", host+":18083:8080/udp")
	p.zone.lead(f, "good.example", f.server)
	serveTCP(t, p.NetNS, "tcp"+f.v, net.JoinHostPort(any, "8080"), echoTCP)
	servePacket(t, p.NetNS, "udp"+f.v, net.JoinHostPort(any, "8080"), echoPacket)
	out, err := p.connect(t, "good.example", f.kind(), port(server))
	if err != nil {
		t.Fatal(err)
	}
	in := must(env.Net.Net.Dial(timeout(t, deadline), "tcp"+f.v, host+":18083"))(t)
	addr, _ := p.find(t, "good.example", f.kind())
	talk := p.dial(t, "udp"+f.v, net.JoinHostPort(addr, port(datagrams.LocalAddr())))
	client := must(env.Net.Net.Dial(timeout(t, deadline), "udp"+f.v, host+":18083"))(t)
	defer client.Close()
	transfers := []*load{loadOver(t, out), loadOver(t, in)}
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
	const other = "allow nothing.example\nallow in from 203.0.113.99\n"
	gone := func() error {
		if addr, _ := p.find(t, "good.example", f.kind()); addr != "" {
			return errors.New("the old policy is in force")
		}
		return nil
	}
	replace := p.replace
	if mode == "stack" {
		replace = func(t testing.TB, text string) {
			t.Helper()
			if got := overHTTP(t, socket, "PUT", "/v1/policy", text); !strings.HasPrefix(got, "HTTP/1.1 200 ") {
				t.Errorf("PUT: %s", got)
			}
		}
	}
	replace(t, other)
	eventually(t, deadline, gone)
	goOn()
	replace(t, allow)
	eventually(t, deadline, func() error {
		if gone() == nil {
			return errors.New("the policy is not back")
		}
		return nil
	})
	replace(t, other+"flows kill\n")
	for _, x := range transfers {
		x.isReset(t)
	}
	if err := answers(t, talk, "denied"); err == nil || os.IsTimeout(err) {
		t.Errorf("UDP: %v, want to be refused at once", err)
	}
	client.Write([]byte("denied")) // that nobody listens is as good
	client.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
	if n, err := client.Read(make([]byte, 100)); err == nil {
		t.Errorf("a client of UDP has %d bytes from the guest", n)
	}
}

// TestPolicyIsEachGuests: what one guest may reach is nothing to another beside it.
func TestPolicyIsEachGuests(t *testing.T) {
	t.Parallel()
	eachFamily(t, func(t *testing.T, f family) {
		server := serveTCP(t, env.Net.Net, "tcp"+f.v, net.JoinHostPort(f.server, "0"), echoTCP)
		one := underPolicy(t, "allow "+f.server+"\nallow one.example\n")
		free := serve(t)
		two := policedBy(t, one.zone, "allow two.example\n")
		for guest, reaches := range map[*world]bool{one.world: true, two.world: false, free: true} {
			c, err := guest.Dial(timeout(t, deadline), "tcp", server.String())
			if (err == nil) != reaches {
				t.Errorf("%v, want %v", err, reaches)
			}
			if err == nil {
				c.Close()
			}
		}
		for p, names := range map[*policed]map[string]int{
			one: {"one.example": dns.RcodeSuccess, "two.example": dns.RcodeNameError},
			two: {"two.example": dns.RcodeSuccess, "one.example": dns.RcodeNameError},
		} {
			for name, want := range names {
				if _, got := p.find(t, name, f.kind()); got != want {
					t.Errorf("%s: %s", name, dns.RcodeToString[got])
				}
			}
		}
	})
}

// TestPolicyAddressesRotate: a name whose addresses are others each time, as those of
// content networks are, is reached at each, also where the first ones do not answer; and
// the record says where.
func TestPolicyAddressesRotate(t *testing.T) {
	t.Parallel()
	eachFamily(t, func(t *testing.T, f family) {
		var got arrivals
		echo := func(c *net.TCPConn) {
			got.note(c.LocalAddr().(*net.TCPAddr).IP.String())
			echoTCP(c)
		}
		at := serveOnePort(t, env.Net.Net, echo, f.server, f.other)
		p := underPolicy(t, "allow good.example\n")
		for i, addrs := range [][]string{{f.noNet, f.noHost, f.other}, {f.server}, {f.other}, {f.noHost, f.server}} {
			var records []string
			for _, a := range addrs {
				records = append(records, "good.example. 1 IN "+f.record()+" "+a)
			}
			p.zone.set("good.example.", f.record(), records...)
			want := addrs[len(addrs)-1]
			eventually(t, deadline, func() error {
				got.clear()
				c, err := p.connect(t, "good.example", f.kind(), at)
				if err == nil {
					err = answers(t, c, "hello")
					c.Close()
				}
				if err == nil && len(got.about(want)) == 0 {
					err = fmt.Errorf("it leads to %q, not to %s", got.about(""), want)
				}
				return err
			})
			if i > 0 {
				continue // that are alike are told of later
			}
			eventually(t, deadline, func() error {
				if list := p.records(t, "good.example"); len(list) != 1 || list[0]["destination"] != net.JoinHostPort(want, at) {
					return fmt.Errorf("recorded: %v, want that it led to %s", list, want)
				}
				return nil
			})
		}
	})
}
