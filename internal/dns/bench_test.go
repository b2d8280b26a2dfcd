package dns

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	mdns "github.com/miekg/dns"

	"epiphyte/internal/shard"
)

// line is a resolver that its goroutine drives turn by turn, and a nameserver
// that does next to nothing.
type line struct {
	t        testing.TB
	r        *Resolver
	query    []byte
	answered int
	reply    Reply
}

func newLine(t testing.TB) *line {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	must(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 4096)
		udp := pc.(*net.UDPConn)
		for {
			n, from, err := udp.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			buf[2] |= flagQR
			udp.WriteToUDPAddrPort(buf[:n], from)
		}
	}()
	path := filepath.Join(t.TempDir(), "resolv.conf")
	writeConf(t, path, "127.0.0.1")
	old := time.Now().Add(-time.Hour)
	must(t, os.Chtimes(path, old, old))
	s, err := shard.New(shard.Config{})
	must(t, err)
	l := &line{t: t, r: New(Config{Shard: s, ResolvConf: path, Port: uint16(pc.LocalAddr().(*net.UDPAddr).Port)})}
	l.query, err = new(mdns.Msg).SetQuestion("name.example.", mdns.TypeA).Pack()
	must(t, err)
	l.reply = func(netip.AddrPort, netip.AddrPort, []byte) { l.answered++ }
	t.Cleanup(func() {
		l.r.Close()
		s.Close()
		pc.Close()
		<-done
	})
	return l
}

// pass submits queries and returns when all but a number of them are answered.
func (l *line) pass(queries, left int) {
	for range queries {
		if !l.r.Submit(l.query, guestAt(), dnsAt(), l.reply) {
			l.t.Fatal("query refused")
		}
		l.answered--
	}
	for l.answered < -left {
		if err := l.r.shard.Turn(-1); err != nil {
			l.t.Fatal(err)
		}
	}
}

// BenchmarkSubmit measures the forwarding of queries with as many in flight as
// given.
func BenchmarkSubmit(b *testing.B) {
	for _, inFlight := range []int{1, 100} {
		b.Run(fmt.Sprintf("in-flight=%d", inFlight), func(b *testing.B) {
			l := newLine(b)
			b.ReportAllocs()
			for b.Loop() {
				l.pass(1, inFlight-1)
			}
			l.pass(0, 0)
		})
	}
}

// A query allocates nothing. Now and then one opens a socket, whose share is below
// one allocation a query.
func TestQueryAllocatesNothing(t *testing.T) {
	l := newLine(t)
	l.pass(100, 0)
	if n := testing.AllocsPerRun(1000, func() { l.pass(1, 0) }); n > 0 {
		t.Errorf("%v allocations per query", n)
	}
}
