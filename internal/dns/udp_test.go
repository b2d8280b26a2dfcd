package dns

import (
	"epiphyte/internal/testnet"
	"fmt"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	mdns "github.com/miekg/dns"
)

func TestB27_ForgedAnswersAreIgnored(t *testing.T) {
	r, _ := upstream(t, Config{}, func(w mdns.ResponseWriter, q *mdns.Msg) {
		forged := new(mdns.Msg).SetRcode(q, mdns.RcodeNameError)
		b, _ := forged.Pack()
		if stranger, err := net.ListenPacket("udp", "127.0.0.2:0"); err == nil {
			stranger.WriteTo(b, w.RemoteAddr())
			stranger.Close()
		}
		forged.Id++
		w.WriteMsg(forged)
		forged.Id--
		forged.Question[0].Name = "other.example."
		w.WriteMsg(forged)
		w.Write([]byte{b[0], b[1], 0x80})
		says("192.0.2.1")(w, q)
	})
	wantA(t, r, udp, "192.0.2.1")
}

func TestManyQueriesShareFewSockets(t *testing.T) {
	r, servers := upstream(t, Config{}, says("192.0.2.1"))
	n := servers[0]
	const queries = 1000
	got := make(chan []byte, queries)
	for i := range queries {
		q := query(fmt.Sprintf("n%d.example.", i), mdns.TypeA)
		if !r.Submit(pack(t, q), func(m []byte) { got <- m }) {
			t.Fatalf("query %d is refused", i)
		}
	}
	names := make(map[string]bool)
	for range queries {
		a := unpack(t, <-got)
		checkA(t, a, "192.0.2.1")
		names[a.Question[0].Name] = true
	}
	if len(names) != queries {
		t.Errorf("%d names were answered, want %d", len(names), queries)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for port, uses := range n.ports {
		// A datagram lost on the way is sent once more.
		if uses > 2*socketUses {
			t.Errorf("port %d was used %d times", port, uses)
		}
	}
}

func TestIdleHoldsNothing(t *testing.T) {
	r, _ := upstream(t, Config{}, says("192.0.2.1"))
	wantA(t, r, udp, "192.0.2.1")
	eventually(t, "all sockets are closed", func() bool {
		nothing := false
		r.do(func() { nothing = len(r.sockets) == 0 && r.inFlight == 0 })
		return nothing
	})
	wantA(t, r, udp, "192.0.2.1")
}

// All queries on a socket hear of a refusal, whoever of them found it out.
func TestB29_RefusalConcernsAllOnTheSocket(t *testing.T) {
	r, _ := upstream(t, Config{Retry: 5 * time.Second, Timeout: 20 * time.Second}, nil, says("192.0.2.2"))
	const queries = 10
	got := make(chan []byte, queries)
	q := pack(t, query("name.example.", mdns.TypeA))
	within(t, time.Second, func() {
		r.do(func() { // all are sent in one go
			for range queries {
				if !r.submit(q, func(m []byte) { got <- m }) {
					t.Error("query refused")
				}
			}
		})
		for range queries {
			checkA(t, unpack(t, <-got), "192.0.2.2")
		}
	})
}

// A query too large for any datagram over IPv4 fails, and the nameserver is not
// blamed. A guest can send it over IPv6.
func TestOversizedQueryFailsAlone(t *testing.T) {
	r, _ := upstream(t, Config{}, says("192.0.2.1"), says("192.0.2.2"))
	big := append(pack(t, query("name.example.", mdns.TypeA)), make([]byte, 65500)...)
	if a := raw(t, r, udp, big); a[3]&maskRcode != mdns.RcodeServerFailure {
		t.Errorf("got %x, want SERVFAIL", a)
	}
	wantA(t, r, udp, "192.0.2.1")
}

// Neither ids nor ports of two queries in a row tell those of the next.
func TestIDsAndPortsAreUnforeseeable(t *testing.T) {
	ids := make(map[uint16]bool)
	r, servers := upstream(t, Config{}, silence)
	n := servers[0]
	n.set(func(w mdns.ResponseWriter, q *mdns.Msg) {
		n.mu.Lock()
		ids[q.Id] = true
		n.mu.Unlock()
		says("192.0.2.1")(w, q)
	})
	m := query("name.example.", mdns.TypeA)
	const queries = 64
	for range queries {
		checkA(t, ask(t, r, udp, m), "192.0.2.1") // always the guest's one id
		r.advance(socketAge)                      // at a person's pace
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	// Of 64 in 65536 and of 64 in 28232 (net.ipv4.ip_local_port_range) two are
	// equal by chance at times, five never.
	if len(ids) < queries-4 || len(n.ports) < queries-4 {
		t.Errorf("%d queries had %d ids and %d ports", queries, len(ids), len(n.ports))
	}
}

func TestZoneIsNameOrIndex(t *testing.T) {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	testnet.NeedAddress(t, err)
	defer unix.Close(fd)
	lo, err := net.InterfaceByName("lo")
	must(t, err)
	for _, zone := range []string{"lo", fmt.Sprint(lo.Index)} {
		if n, err := interfaceIndex(fd, zone); err != nil || int(n) != lo.Index {
			t.Errorf("%s: %d, %v, want %d", zone, n, err, lo.Index)
		}
	}
	for _, zone := range []string{"no-such-if", "a-name-longer-than-any-interface-has"} {
		if n, err := interfaceIndex(fd, zone); err == nil {
			t.Errorf("%s: %d, want an error", zone, n)
		}
	}
}
