package dns

import (
	"bytes"
	"fmt"
	"net"
	"path/filepath"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
)

func TestB27_MessagesPassUnchanged(t *testing.T) {
	port := freePort(t, "127.0.0.1")
	pc, err := net.ListenPacket("udp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	// The server below reads one datagram for each query.
	r := start(t, Config{Port: port, Retry: 5 * time.Second, Timeout: 10 * time.Second}, "127.0.0.1")

	edns := query("ExAmPlE.oRg.", mdns.TypeTXT)
	edns.SetEdns0(4096, true)
	edns.IsEdns0().Option = append(edns.IsEdns0().Option, &mdns.EDNS0_LOCAL{Code: 65001, Data: []byte("opaque")})
	truncated := new(mdns.Msg).SetReply(edns)
	truncated.Truncated = true
	nx := new(mdns.Msg).SetRcode(edns, mdns.RcodeNameError)
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
	for _, tc := range []struct {
		name        string
		query, resp *mdns.Msg
	}{
		{"truncated", edns, truncated},
		{"nxdomain", edns, nx},
		{"unknown type", unknown, unknownReply},
		{"45 kB", edns, big},
	} {
		t.Run(tc.name, func(t *testing.T) {
			q, want := pack(t, tc.query), pack(t, tc.resp)
			atServer := make(chan []byte, 1)
			go func() {
				buf := make([]byte, 65535)
				n, from, err := pc.ReadFrom(buf)
				if err != nil {
					close(atServer)
					return
				}
				atServer <- bytes.Clone(buf[:n])
				out := bytes.Clone(want)
				copy(out, buf[:2])
				pc.WriteTo(out, from)
			}()
			if got := raw(t, r, q); !bytes.Equal(got, want) {
				t.Errorf("the guest got %x, want %x", got, want)
			}
			if got := <-atServer; !bytes.Equal(got[2:], q[2:]) {
				t.Errorf("the nameserver got %x, want %x", got, q)
			}
		})
	}
}

func TestB27_ForgedAnswersAreIgnored(t *testing.T) {
	port := freePort(t, "127.0.0.1", "127.0.0.2")
	stranger, err := net.ListenPacket("udp", fmt.Sprintf("127.0.0.2:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	serve(t, "127.0.0.1", port, func(w mdns.ResponseWriter, q *mdns.Msg) {
		if w.RemoteAddr().Network() == "udp" {
			forged := new(mdns.Msg).SetRcode(q, mdns.RcodeNameError)
			b, _ := forged.Pack()
			stranger.WriteTo(b, w.RemoteAddr())
			forged.Id++
			w.WriteMsg(forged)
			forged.Id--
			forged.Question[0].Name = "other.example."
			w.WriteMsg(forged)
			w.Write([]byte{b[0], b[1], 0x80})
		}
		says("192.0.2.1")(w, q)
	})
	r := start(t, Config{Port: port}, "127.0.0.1")
	q := query("name.example.", mdns.TypeA)
	a := ask(t, r, q)
	checkA(t, a, "192.0.2.1")
}

func TestB27_FailureIsServFail(t *testing.T) {
	port := freePort(t, "127.0.0.1", "127.0.0.2")
	cfg := Config{Port: port, Retry: 50 * time.Millisecond, Timeout: 300 * time.Millisecond}
	check := func(t *testing.T, r *rig) {
		q := query("name.example.", mdns.TypeAAAA)
		q.SetEdns0(1232, false)
		a := ask(t, r, q)
		if a.Rcode != mdns.RcodeServerFailure || !a.Response || !a.RecursionAvailable || !a.RecursionDesired {
			t.Errorf("got %v, want SERVFAIL", a)
		}
		if len(a.Question) != 1 || a.Question[0] != q.Question[0] || a.IsEdns0() == nil {
			t.Errorf("got %v, want the question and an OPT record", a)
		}
	}
	t.Run("nobody listens", func(t *testing.T) {
		check(t, start(t, cfg, "127.0.0.1", "127.0.0.2"))
	})
	t.Run("all silent", func(t *testing.T) {
		deadServer(t, "127.0.0.1", port)
		deadServer(t, "127.0.0.2", port)
		check(t, start(t, cfg, "127.0.0.1", "127.0.0.2"))
	})
	t.Run("unreachable", func(t *testing.T) {
		check(t, start(t, cfg, "fe80::1%no-such-if"))
	})
}

func TestB27_UpstreamFailure(t *testing.T) {
	port := freePort(t, "127.0.0.1", "127.0.0.2")
	one := serve(t, "127.0.0.1", port, rcode(mdns.RcodeServerFailure))
	two := serve(t, "127.0.0.2", port, says("192.0.2.2"))
	r := start(t, Config{Port: port}, "127.0.0.1", "127.0.0.2")
	for _, code := range []int{mdns.RcodeServerFailure, mdns.RcodeRefused, mdns.RcodeNotImplemented} {
		one.set(rcode(code))
		wantA(t, r, "192.0.2.2")
	}

	// Who fails everybody the same way passes its own answer on.
	refused := func(w mdns.ResponseWriter, q *mdns.Msg) {
		a := new(mdns.Msg).SetRcode(q, mdns.RcodeRefused)
		a.SetEdns0(1232, false)
		a.IsEdns0().Option = []mdns.EDNS0{&mdns.EDNS0_EDE{InfoCode: mdns.ExtendedErrorCodeProhibited}}
		w.WriteMsg(a)
	}
	one.set(refused)
	two.set(rcode(mdns.RcodeServerFailure))
	a := ask(t, r, query("name.example.", mdns.TypeA))
	if a.Rcode != mdns.RcodeRefused || a.IsEdns0() == nil {
		t.Errorf("got %v, want the first nameserver's REFUSED", a)
	}

	// One that fails and one that is silent: the failure, without the whole
	// timeout.
	two.set(silence)
	began := time.Now()
	if a := ask(t, r, query("name.example.", mdns.TypeA)); a.Rcode != mdns.RcodeRefused {
		t.Errorf("got %v, want REFUSED", a)
	}
	if d := time.Since(began); d > 2*time.Second {
		t.Errorf("took %v", d)
	}

	// NXDOMAIN is an answer like any other.
	one.set(rcode(mdns.RcodeNameError))
	two.set(says("192.0.2.2"))
	if a := ask(t, r, query("name.example.", mdns.TypeA)); a.Rcode != mdns.RcodeNameError {
		t.Errorf("got %v, want NXDOMAIN", a)
	}
}

func TestB29_SecondNameserverAnswersInTime(t *testing.T) {
	for _, tc := range []struct {
		name   string
		listen bool
		want   time.Duration
	}{
		{"silent", true, 2 * time.Second},
		{"refusing", false, 500 * time.Millisecond},
	} {
		t.Run(tc.name, func(t *testing.T) {
			port := freePort(t, "127.0.0.1", "127.0.0.2")
			if tc.listen {
				deadServer(t, "127.0.0.1", port)
			}
			serve(t, "127.0.0.2", port, says("192.0.2.2"))
			r := start(t, Config{Port: port}, "127.0.0.1", "127.0.0.2")
			began := time.Now()
			wantA(t, r, "192.0.2.2")
			if d := time.Since(began); d > tc.want {
				t.Errorf("first answer took %v, want at most %v", d, tc.want)
			}
			began = time.Now()
			for range 20 {
				wantA(t, r, "192.0.2.2")
			}
			if d := time.Since(began); d > 500*time.Millisecond {
				t.Errorf("20 answers more took %v: the dead nameserver is still asked first", d)
			}
		})
	}
}

func TestB29_RecoveredNameserverIsFirstAgain(t *testing.T) {
	port := freePort(t, "127.0.0.1", "127.0.0.2")
	one := serve(t, "127.0.0.1", port, silence)
	two := serve(t, "127.0.0.2", port, says("192.0.2.2"))
	r := start(t, Config{Port: port, Retry: 400 * time.Millisecond, Demotion: time.Minute}, "127.0.0.1", "127.0.0.2")

	wantA(t, r, "192.0.2.2")
	for range 10 {
		wantA(t, r, "192.0.2.2")
	}
	if n := one.asked.Load(); n != 1 {
		t.Errorf("the dead nameserver was asked %d times, want once", n)
	}

	// Still dead when its time has come: one probe, which delays nobody, and
	// none for twice as long after that.
	r.advance(61 * time.Second)
	began := time.Now()
	for range 10 {
		wantA(t, r, "192.0.2.2")
	}
	if d := time.Since(began); d > 390*time.Millisecond {
		t.Errorf("10 answers took %v beside a probe", d)
	}
	r.advance(61 * time.Second)
	wantA(t, r, "192.0.2.2")

	// Back, and slower than the other: its late answer still counts.
	answered := make(chan struct{})
	release := make(chan struct{})
	one.set(func(w mdns.ResponseWriter, q *mdns.Msg) {
		<-release
		says("192.0.2.1")(w, q)
		close(answered)
	})
	r.advance(61 * time.Second)
	wantA(t, r, "192.0.2.2")
	close(release)
	<-answered
	one.set(says("192.0.2.1"))
	eventually(t, "the recovered nameserver is asked again", func() bool {
		a := ask(t, r, query("name.example.", mdns.TypeA))
		return a.Answer[0].(*mdns.A).A.String() == "192.0.2.1"
	})
	if two.asked.Load() == 0 {
		t.Error("the second nameserver was never asked")
	}
}

func TestB29_SlowNameIsNoDeadServer(t *testing.T) {
	port := freePort(t, "127.0.0.1", "127.0.0.2")
	slow := make(chan struct{})
	one := serve(t, "127.0.0.1", port, nil)
	one.set(func(w mdns.ResponseWriter, q *mdns.Msg) {
		if q.Question[0].Name == "slow.example." {
			<-slow
		}
		says("192.0.2.1")(w, q)
	})
	seen := make(chan struct{}, 8)
	serve(t, "127.0.0.2", port, func(mdns.ResponseWriter, *mdns.Msg) { seen <- struct{}{} })
	r := start(t, Config{Port: port, Retry: 500 * time.Millisecond}, "127.0.0.1", "127.0.0.2")
	got := make(chan []byte, 1)
	r.Submit(pack(t, query("slow.example.", mdns.TypeA)), func(m []byte) { got <- m })
	wantA(t, r, "192.0.2.1")
	<-seen
	began := time.Now()
	wantA(t, r, "192.0.2.1")
	if d := time.Since(began); d > 450*time.Millisecond {
		t.Errorf("took %v: a nameserver slow with one name is asked last", d)
	}
	close(slow)
	checkA(t, unpack(t, <-got), "192.0.2.1")
}

func TestB29_IPv6OnlyNameserver(t *testing.T) {
	port := freePort(t, "::1")
	serve(t, "::1", port, says("192.0.2.6"))
	r := start(t, Config{Port: port}, "::1")
	wantA(t, r, "192.0.2.6")
	c := dial(t, r)
	c.send(query("name.example.", mdns.TypeA))
	checkA(t, c.receive(), "192.0.2.6")
}

func TestB29_StubResolverOnLoopback(t *testing.T) {
	port := freePort(t, "127.0.0.53")
	serve(t, "127.0.0.53", port, says("192.0.2.53"))
	wantA(t, start(t, Config{Port: port}, "127.0.0.53"), "192.0.2.53")
}

func TestSubmitIsBounded(t *testing.T) {
	port := freePort(t, "127.0.0.1")
	deadServer(t, "127.0.0.1", port)
	r := start(t, Config{Port: port, MaxInFlight: 100}, "127.0.0.1")
	q := pack(t, query("name.example.", mdns.TypeA))
	for i := range 100 {
		if !r.Submit(q, func([]byte) {}) {
			t.Fatalf("query %d is refused", i)
		}
	}
	if r.Submit(q, func([]byte) {}) {
		t.Error("query 101 is taken")
	}
	began := time.Now()
	r.Close()
	if d := time.Since(began); d > time.Second {
		t.Errorf("Close took %v", d)
	}
	if r.Submit(q, func([]byte) {}) {
		t.Error("a closed resolver takes queries")
	}
}

func TestNoQueryIsDropped(t *testing.T) {
	r := start(t, Config{ResolvConf: filepath.Join(t.TempDir(), "none")})
	for _, q := range [][]byte{nil, make([]byte, 11), append([]byte{0, 1, 0x80}, make([]byte, 20)...)} {
		if !r.Submit(q, func(m []byte) { t.Errorf("%x is answered with %x", q, m) }) {
			t.Errorf("%x counts as overload", q)
		}
	}
	a := raw(t, r, make([]byte, 12))
	if len(a) != 12 || a[3]&maskRcode != rcodeServFail {
		t.Errorf("got %x, want SERVFAIL", a)
	}
}
