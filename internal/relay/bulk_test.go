package relay

import (
	"net/netip"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/internal/connect"
	"epiphyte/internal/flow"
	"epiphyte/internal/shard"
	"epiphyte/internal/shard/shardtest"
)

// The shard waits as in a bulk transfer once a large piece has been moved, and does not for
// what may be an answer.
func TestJoinTellsOfBulk(t *testing.T) {
	for _, c := range []struct {
		bytes int
		bulk  bool
	}{
		{bulkPiece / 4, false},
		{3 * bulkPiece / 2, true}, // which the first window has room for
	} {
		poller := new(shardtest.Poller)
		s, err := shard.New(shard.Config{Clock: new(shardtest.Clock), Poller: poller})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		table := flow.New(s, flow.Limits{})
		r := New(Config{Shard: s, Table: table})
		defer r.Close()
		defer table.Close()
		a, host := loopbackPair(t)
		b, _ := loopbackPair(t)
		record := &flow.Flow{Kind: flow.Client, Src: netip.MustParseAddrPort("10.0.2.100:80"), Proto: unix.IPPROTO_TCP}
		table.Add(record)
		r.Join(connect.Socket{FD: a}, connect.Socket{FD: b}, record)

		if _, err := host.Write(random(c.bytes, 1)); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(patience); ; runtime.Gosched() {
			if n, err := unix.IoctlGetInt(a, unix.SIOCINQ); n == c.bytes {
				break
			} else if err != nil || time.Now().After(deadline) {
				t.Fatalf("%d bytes of %d arrived, %v", n, c.bytes, err)
			}
		}
		if !poller.Ready(a, unix.EPOLLIN) {
			t.Fatal("the host's end is not watched")
		}
		for range 2 { // one moves, the next one waits
			if err := s.Turn(-1); err != nil {
				t.Fatal(err)
			}
		}
		if moved := record.In; moved != uint64(c.bytes) {
			t.Fatalf("%d bytes were moved, want %d", moved, c.bytes)
		}
		if poller.Bulk() != c.bulk {
			t.Errorf("%d bytes: the shard waits as in bulk: %v, want %v", c.bytes, poller.Bulk(), c.bulk)
		}
	}
}
