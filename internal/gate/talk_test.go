package gate

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"epiphyte/internal/policy"
)

// TestTalks: who was sent a datagram by its name answers by the name's address, who was
// not is not seen, and a server has one name to a port at a time.
func TestTalks(t *testing.T) {
	r := newRig(t, "allow udp a.example:5000\nallow udp b.example:5000\nallow udp 203.0.113.7:5000\n")
	r.zone = map[string][]string{"a.example. A": {"60 IN A 203.0.113.1"}, "b.example. A": {"60 IN A 203.0.113.1"}}
	a, b := netip.AddrPortFrom(r.addr("a.example"), 5000), netip.AddrPortFrom(r.addr("b.example"), 5000)
	peer := netip.MustParseAddrPort("203.0.113.1:5000")
	if d := r.out(unix.IPPROTO_UDP, 1, a); d.Action != policy.Allow || d.To != peer {
		t.Fatalf("%+v", d)
	}
	if d := r.back(1, "203.0.113.1:5000"); d.Action != policy.Allow || d.From != a {
		t.Errorf("the server is seen as %v, %v; want %v", d.From, d.Action, a)
	}
	for _, stranger := range []string{"203.0.113.1:5001", "203.0.113.2:5000", "[2001:db8::1]:5000"} {
		if d := r.back(1, stranger); d.Action == policy.Allow {
			t.Errorf("%s is seen as %v", stranger, d.From)
		}
	}
	if d := r.back(2, "203.0.113.1:5000"); d.Action == policy.Allow {
		t.Error("the server reaches another port")
	}
	r.out(unix.IPPROTO_UDP, 1, b)
	if d := r.back(1, "203.0.113.1:5000"); d.From != b {
		t.Errorf("the server is seen as %v, want as it was asked last, %v", d.From, b)
	}
	literal := netip.MustParseAddrPort("203.0.113.7:5000")
	if d := r.out(unix.IPPROTO_UDP, 1, literal); d.To != literal {
		t.Errorf("%+v", d)
	}
	if d := r.back(1, "203.0.113.7:5000"); d.From != literal {
		t.Errorf("an address by itself is seen as %v", d.From)
	}
	for _, to := range []netip.AddrPort{netip.AddrPortFrom(a.Addr(), 53), netip.AddrPortFrom(a.Addr(), 5001), peer} {
		if d := r.out(unix.IPPROTO_UDP, 1, to); d.Action != policy.Refuse {
			t.Errorf("%v: %+v", to, d)
		}
	}
}

// TestTalksEnd: without datagrams one is forgotten, and its name may lose its address;
// with too many any is.
func TestTalksEnd(t *testing.T) {
	r := newRig(t, "allow udp *.example.net\n", func(cfg *Config) { cfg.Share = talksMost / 4 })
	r.zone = map[string][]string{"a.example.net. A": {"3600 IN A 203.0.113.1"}}
	to := netip.AddrPortFrom(r.addr("a.example.net"), 5000)
	for port := range uint16(100) {
		if d := r.out(unix.IPPROTO_UDP, 1000+port, to); d.Action != policy.Allow {
			t.Fatalf("port %d: %+v", port, d)
		}
		if n := len(r.talks.byDst); n > 4 || n != len(r.talks.byPeer) {
			t.Fatalf("%d talks, %d of peers", n, len(r.talks.byPeer))
		}
	}
	for range 5 {
		r.pass(talkIdle / 4)
	}
	if n := len(r.talks.byDst) + len(r.talks.byPeer); n > 0 {
		t.Errorf("%d are remembered after their time", n)
	}
	if d := r.back(1099, "203.0.113.1:5000"); d.Action == policy.Allow {
		t.Error("a server is heard after its time")
	}
}

// TestHellosAreBounded: of clients that begin a hello and do not go on, the oldest lose
// what was kept, and what waited for it does not leave.
func TestHellosAreBounded(t *testing.T) {
	r := newRig(t, "allow example.com:443\n")
	r.zone = map[string][]string{"example.com. A": {"3600 IN A 203.0.113.1"}}
	to := netip.AddrPortFrom(r.addr("example.com"), 443)
	half, err := os.ReadFile(filepath.Join("..", "sniff", "testdata", "initial-second"))
	if err != nil {
		t.Fatal(err)
	}
	lost := 0
	for port := range uint16(2 * quicMost) {
		d := r.out(unix.IPPROTO_UDP, 1000+port, to)
		if s := d.Watch.Sees(half, false); s != policy.Undecided {
			t.Fatalf("half a hello: %v", s)
		}
		d.Pending.Then(func(d policy.Decision) {
			lost++
			if d.Action == policy.Allow {
				t.Error("what waited leaves")
			}
		})
	}
	if len(r.talks.quic) != quicMost || lost != quicMost {
		t.Errorf("%d hellos are kept, %d lost", len(r.talks.quic), lost)
	}
}
