package network

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"epiphyte/internal/egress"
	"epiphyte/internal/shard"
)

// TestKeeperHearsWhatIsLast: changes of a member's policy and of its ports at the same time
// reach the keeper in the order in which they are made, so that it never keeps a policy under
// the name of the one before.
func TestKeeperHearsWhatIsLast(t *testing.T) {
	w, keeper := newSpeaker(t)
	m := &membership{Member: Member{ID: "1", Name: "a", IPv4: netip.MustParseAddr("10.89.0.2"), Policy: "0"}, told: true}
	f, err := SealPolicy([]egress.Source{{File: "policy", Text: "allow a.example\n"}})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()

	const rounds = 1000
	var wg sync.WaitGroup
	defer wg.Wait()
	defer keeper.Close() // nobody waits for a reader that has given up
	each := func(change func(i string) error) {
		for i := range rounds {
			if err := change(fmt.Sprint(i + 1)); err != nil {
				t.Error(err)
				return
			}
		}
	}
	wg.Go(func() {
		each(func(i string) error {
			return w.changePolicy(m, &request{Policy: i, Roles: []role{rolePolicy}}, []int{int(f.Fd())})
		})
	})
	wg.Go(func() {
		each(func(i string) error { return w.remember(m, func() { m.Publish = []string{i} }) })
	})
	name := "0"
	for range 2 * rounds {
		var o order
		fds, err := receive(keeper, &o)
		if err != nil {
			t.Fatal(err)
		}
		closeAll(fds)
		if o.Op == opPolicy {
			name = o.Text
		} else if o.Member.Policy != name {
			t.Fatalf("the keeper has policy %s, and is told that it is %s", name, o.Member.Policy)
		}
	}
}

// newSpeaker is a worker that serves nobody, and its keeper's end of their connection.
func newSpeaker(t *testing.T) (w *Worker, keeper *net.UnixConn) {
	t.Helper()
	ours, theirs, err := pair()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ours.Close() })
	fd, err := unix.Dup(int(theirs.Fd()))
	if err == nil {
		theirs.Close()
		keeper, err = connOf(fd)
	}
	if err != nil {
		t.Fatal(err)
	}
	s, err := shard.New(shard.Config{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan struct{})
	go func() {
		defer close(served)
		s.Serve(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-served
		s.Close()
	})
	return &Worker{
		cfg: WorkerConfig{Logger: slog.New(slog.DiscardHandler)}, control: ours, shard: s, served: served,
	}, keeper
}
