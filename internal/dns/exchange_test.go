package dns

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	mdns "github.com/miekg/dns"
)

func TestB27_MessagesPassUnchanged(t *testing.T) {
	edns := query("ExAmPlE.oRg.", mdns.TypeTXT)
	edns.SetEdns0(4096, true)
	edns.IsEdns0().Option = append(edns.IsEdns0().Option, &mdns.EDNS0_LOCAL{Code: 65001, Data: []byte("opaque")})
	truncated := new(mdns.Msg).SetReply(edns)
	truncated.Truncated = true
	unknown := query("type.example.", 65280)
	unknownReply := new(mdns.Msg).SetReply(unknown)
	unknownReply.Answer = []mdns.RR{&mdns.RFC3597{
		Hdr:   mdns.RR_Header{Name: "type.example.", Rrtype: 65280, Class: mdns.ClassINET, Ttl: 5},
		Rdata: "deadbeef",
	}}
	big := new(mdns.Msg).SetReply(edns)
	for range 200 {
		big.Answer = append(big.Answer, &mdns.TXT{
			Hdr: mdns.RR_Header{Name: "example.org.", Rrtype: mdns.TypeTXT, Class: mdns.ClassINET},
			Txt: []string{string(bytes.Repeat([]byte{'x'}, 250))},
		})
	}
	r, servers := upstream(t, Config{Retry: 5 * time.Second, Timeout: 10 * time.Second}, silence)
	for _, tc := range []struct {
		name        string
		query, resp *mdns.Msg
	}{
		{"truncated", edns, truncated},
		{"nxdomain", edns, new(mdns.Msg).SetRcode(edns, mdns.RcodeNameError)},
		{"unknown type", unknown, unknownReply},
		{"dot in a label", query(`a\.b.example.`, mdns.TypeSRV), new(mdns.Msg).SetReply(query(`a\.b.example.`, mdns.TypeSRV))},
		{"54 kB", edns, big},
	} {
		q, want := pack(t, tc.query), pack(t, tc.resp)
		copy(want, q[:2])
		servers[0].set(func(w mdns.ResponseWriter, q *mdns.Msg) {
			out := bytes.Clone(want)
			out[0], out[1] = byte(q.Id>>8), byte(q.Id)
			w.Write(out)
		})
		overBoth(t, func(t *testing.T, via transport) {
			if got := raw(t, r, via, q); !bytes.Equal(got, want) {
				t.Errorf("%s: the guest got %x, want %x", tc.name, got, want)
			}
			servers[0].mu.Lock()
			defer servers[0].mu.Unlock()
			if got := servers[0].raw; !bytes.Equal(got[2:], q[2:]) {
				t.Errorf("%s: the nameserver got %x, want %x", tc.name, got, q)
			}
		})
	}
}

func TestB27_FailureIsServFail(t *testing.T) {
	cfg := Config{Retry: 50 * time.Millisecond, Timeout: 300 * time.Millisecond}
	silent, _ := upstream(t, cfg, silence, silence)
	refusing, _ := upstream(t, cfg, nil, nil)
	cfg.ResolvConf = filepath.Join(t.TempDir(), "none")
	missing := start(t, cfg)
	cfg.ResolvConf = ""
	for name, r := range map[string]*rig{
		"nobody listens": refusing,
		"all silent":     silent,
		"unreachable":    start(t, cfg, "fe80::1%no-such-if"),
		"no file":        missing,
	} {
		q := query(`dotted\.label.example.`, mdns.TypeAAAA)
		q.SetEdns0(1232, false)
		overBoth(t, func(t *testing.T, via transport) {
			a := ask(t, r, via, q)
			if a.Rcode != mdns.RcodeServerFailure || !a.Response || !a.RecursionAvailable || !a.RecursionDesired {
				t.Errorf("%s: got %v, want SERVFAIL", name, a)
			}
			if len(a.Question) != 1 || a.Question[0] != q.Question[0] || a.IsEdns0() == nil {
				t.Errorf("%s: got %v, want the question and an OPT record", name, a)
			}
		})
	}
}

func TestB27_UpstreamFailure(t *testing.T) {
	overBoth(t, func(t *testing.T, via transport) {
		r, servers := upstream(t, Config{}, silence, says("192.0.2.2"))
		one, two := servers[0], servers[1]
		for _, code := range []int{mdns.RcodeServerFailure, mdns.RcodeRefused, mdns.RcodeNotImplemented} {
			one.set(rcode(code))
			wantA(t, r, via, "192.0.2.2")
		}

		// When all fail, the first one's answer is the guest's.
		one.set(func(w mdns.ResponseWriter, q *mdns.Msg) {
			a := new(mdns.Msg).SetRcode(q, mdns.RcodeRefused)
			a.SetEdns0(1232, false)
			a.IsEdns0().Option = []mdns.EDNS0{&mdns.EDNS0_EDE{InfoCode: mdns.ExtendedErrorCodeProhibited}}
			w.WriteMsg(a)
		})
		two.set(rcode(mdns.RcodeServerFailure))
		a := ask(t, r, via, query("name.example.", mdns.TypeA))
		if a.Rcode != mdns.RcodeRefused || a.IsEdns0() == nil {
			t.Errorf("got %v, want the first nameserver's REFUSED", a)
		}

		// One that fails and one that is silent: the failure, without the whole
		// timeout.
		two.set(silence)
		within(t, 2*time.Second, func() { wantCode(t, r, via, mdns.RcodeRefused) })

		// NXDOMAIN is an answer like any other.
		one.set(rcode(mdns.RcodeNameError))
		two.set(says("192.0.2.2"))
		wantCode(t, r, via, mdns.RcodeNameError)
	})
}

func TestB29_SecondNameserverAnswersInTime(t *testing.T) {
	for _, tc := range []struct {
		name  string
		dead  func(t *testing.T, addr string, port uint16)
		limit time.Duration
		over  []transport
	}{
		{"silent", deadServer, 2 * time.Second, []transport{udp, tcp}},
		{"refusing", func(*testing.T, string, uint16) {}, 2 * time.Second, []transport{udp, tcp}},
		{"closing", closingServer, 2 * time.Second, []transport{tcp}},
		{"unreachable backlog", fullServer, 2 * time.Second, []transport{tcp}},
	} {
		for _, via := range tc.over {
			t.Run(fmt.Sprint(tc.name, " over ", via), func(t *testing.T) {
				port := freePort(t, "127.0.0.1", "127.0.0.2")
				tc.dead(t, "127.0.0.1", port)
				serve(t, "127.0.0.2", port, says("192.0.2.2"))
				r := start(t, Config{Port: port}, "127.0.0.1", "127.0.0.2")
				within(t, tc.limit, func() { wantA(t, r, via, "192.0.2.2") })
				// The dead one is asked last from now on.
				atBest(t, 500*time.Millisecond, func() { wantA(t, r, via, "192.0.2.2") })
			})
		}
	}
}

// closingServer closes every connection once it has read from it.
func closingServer(t *testing.T, addr string, port uint16) {
	l, err := net.Listen("tcp", net.JoinHostPort(addr, fmt.Sprint(port)))
	must(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Read(make([]byte, 1))
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
}

// fullServer lets no connection be established: its queue is full.
func fullServer(t *testing.T, addr string, port uint16) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	must(t, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)) // connections in TIME-WAIT may have the port
	at := &unix.SockaddrInet4{Port: int(port), Addr: [4]byte(net.ParseIP(addr).To4())}
	must(t, errors.Join(unix.Bind(fd, at), unix.Listen(fd, 0)))
	for range 2 {
		c, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		must(t, err)
		t.Cleanup(func() { unix.Close(c) })
		if err := unix.Connect(c, at); err != nil && err != unix.EINPROGRESS {
			t.Fatal(err)
		}
	}
}

func TestB29_RecoveredNameserverIsFirstAgain(t *testing.T) {
	overBoth(t, func(t *testing.T, via transport) {
		cfg := Config{Retry: 400 * time.Millisecond, Demotion: time.Minute}
		r, servers := upstream(t, cfg, silence, says("192.0.2.2"))
		one := servers[0]
		for range 10 {
			wantA(t, r, via, "192.0.2.2")
		}
		if n := one.asked.Load(); n != 1 {
			t.Errorf("the dead nameserver was asked %d times, want once", n)
		}

		// Still dead when its time has come: one probe, which delays nobody, and
		// none for twice as long after that.
		r.advance(61 * time.Second)
		atBest(t, cfg.Retry, func() { wantA(t, r, via, "192.0.2.2") })
		r.advance(61 * time.Second)
		wantA(t, r, via, "192.0.2.2")

		// Back, and slower than the other: its late answer still counts.
		answered := make(chan struct{})
		release := make(chan struct{})
		one.set(func(w mdns.ResponseWriter, q *mdns.Msg) {
			<-release
			says("192.0.2.1")(w, q)
			close(answered)
		})
		r.advance(61 * time.Second)
		wantA(t, r, via, "192.0.2.2")
		close(release)
		<-answered
		if n := one.asked.Load(); n != 3 {
			t.Errorf("the dead nameserver was asked %d times, want two probes", n-1)
		}
		one.set(says("192.0.2.1"))
		eventually(t, "the recovered nameserver is asked again", func() bool {
			a := ask(t, r, via, query("name.example.", mdns.TypeA))
			return a.Answer[0].(*mdns.A).A.String() == "192.0.2.1"
		})
	})
}

func TestB29_SlowNameIsNoDeadServer(t *testing.T) {
	overBoth(t, func(t *testing.T, via transport) {
		slow := make(chan struct{})
		seen := make(chan struct{}, 8)
		r, _ := upstream(t, Config{Retry: 500 * time.Millisecond}, func(w mdns.ResponseWriter, q *mdns.Msg) {
			if q.Question[0].Name == "slow.example." {
				<-slow
			}
			says("192.0.2.1")(w, q)
		}, func(mdns.ResponseWriter, *mdns.Msg) { seen <- struct{}{} })
		got := make(chan *mdns.Msg, 1)
		q := pack(t, query("slow.example.", mdns.TypeA))
		if via == udp {
			r.Submit(q, func(m []byte) { got <- unpack(t, m) })
		} else {
			c := dial(t, r)
			c.Write(q)
			go func() { got <- c.receive() }()
		}
		wantA(t, r, via, "192.0.2.1")
		<-seen
		atBest(t, 450*time.Millisecond, func() { wantA(t, r, via, "192.0.2.1") })
		close(slow)
		checkA(t, <-got, "192.0.2.1")
	})
}

// A nameserver that speaks one transport only is not asked last over it.
func TestB29_TransportsAreJudgedApart(t *testing.T) {
	port := freePort(t, "127.0.0.1", "127.0.0.2")
	udpOnly := serve(t, "127.0.0.1", port, func(w mdns.ResponseWriter, q *mdns.Msg) {
		if w.RemoteAddr().Network() == "udp" {
			says("192.0.2.1")(w, q)
		}
		w.Close()
	})
	serve(t, "127.0.0.2", port, says("192.0.2.2"))
	r := start(t, Config{Port: port}, "127.0.0.1", "127.0.0.2")
	for range 3 {
		wantA(t, r, tcp, "192.0.2.2")
		wantA(t, r, udp, "192.0.2.1")
	}
	if n := udpOnly.asked.Load(); n != 4 {
		t.Errorf("the first nameserver was asked %d times, want three times over UDP and once over TCP", n)
	}
}

func TestB29_IPv6OnlyNameserver(t *testing.T) {
	port := freePort(t, "::1")
	serve(t, "::1", port, says("192.0.2.6"))
	r := start(t, Config{Port: port}, "::1")
	overBoth(t, func(t *testing.T, via transport) { wantA(t, r, via, "192.0.2.6") })
}

func TestB29_StubResolverOnLoopback(t *testing.T) {
	port := freePort(t, "127.0.0.53")
	serve(t, "127.0.0.53", port, says("192.0.2.53"))
	r := start(t, Config{Port: port}, "127.0.0.53")
	overBoth(t, func(t *testing.T, via transport) { wantA(t, r, via, "192.0.2.53") })
}

// Names of the local table are answered before any nameserver is asked, and
// without one.
func TestLocalNamesComeFirst(t *testing.T) {
	local := func(q []byte, from netip.AddrPort, stream bool) ([]byte, bool) {
		m := unpack(t, q)
		if m.Question[0].Name != "peer." {
			return nil, false
		}
		if from != guestAt() {
			t.Errorf("asked by %v", from)
		}
		return pack(t, new(mdns.Msg).SetRcode(m, mdns.RcodeNameError)), true
	}
	r, servers := upstream(t, Config{Local: local}, says("192.0.2.1"))
	none := start(t, Config{Local: local, ResolvConf: filepath.Join(t.TempDir(), "none")})
	overBoth(t, func(t *testing.T, via transport) {
		for _, r := range []*rig{r, none} {
			if a := ask(t, r, via, query("peer.", mdns.TypeA)); a.Rcode != mdns.RcodeNameError {
				t.Errorf("got %v, want the local NXDOMAIN", a)
			}
		}
		wantA(t, r, via, "192.0.2.1")
	})
	if n := servers[0].asked.Load(); n != 2 {
		t.Errorf("the nameserver was asked %d times, want 2", n)
	}
}

func TestSubmitIsBounded(t *testing.T) {
	r, _ := upstream(t, Config{MaxInFlight: 100}, silence)
	q := pack(t, query("name.example.", mdns.TypeA))
	for i := range 100 {
		if !r.Submit(q, func([]byte) {}) {
			t.Fatalf("query %d is refused", i)
		}
	}
	if r.Submit(q, func([]byte) {}) {
		t.Error("query 101 is taken")
	}
	within(t, time.Second, r.Close)
	if r.Submit(q, func([]byte) {}) {
		t.Error("a closed resolver takes queries")
	}
}

// Local names wait for no nameserver, and so for no query that does.
func TestLocalNamesAreAnsweredAtTheLimit(t *testing.T) {
	local := func(q []byte, _ netip.AddrPort, _ bool) ([]byte, bool) {
		m := unpack(t, q)
		return pack(t, new(mdns.Msg).SetReply(m)), m.Question[0].Name == "peer."
	}
	r, _ := upstream(t, Config{MaxInFlight: 100, Local: local}, silence)
	q := pack(t, query("name.example.", mdns.TypeA))
	for r.Submit(q, func([]byte) {}) {
	}
	answered := false
	if !r.Submit(pack(t, query("peer.", mdns.TypeA)), func([]byte) { answered = true }) || !answered {
		t.Error("a local name is not answered")
	}
}

func TestNoQueryIsDropped(t *testing.T) {
	r := start(t, Config{ResolvConf: filepath.Join(t.TempDir(), "none")})
	for _, q := range [][]byte{nil, make([]byte, 11), append([]byte{0, 1, 0x80}, make([]byte, 20)...)} {
		if !r.Submit(q, func(m []byte) { t.Errorf("%x is answered with %x", q, m) }) {
			t.Errorf("%x counts as overload", q)
		}
	}
	a := raw(t, r, udp, make([]byte, 12))
	if len(a) != 12 || a[3]&maskRcode != mdns.RcodeServerFailure {
		t.Errorf("got %x, want SERVFAIL", a)
	}
}
