package network

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"

	"epiphyte/internal/bypass"
	"epiphyte/internal/connect"
	"epiphyte/internal/flow"
	"epiphyte/internal/relay"
	"epiphyte/internal/shard"
)

// splicer splices the member's connections to others that have left the bridge, whatever
// becomes of the network's processes.
type splicer struct {
	shard  *shard.Shard
	table  *flow.Table
	relay  *relay.Relay
	flows  map[bypass.Pair]*flow.Flow // shard's thread only
	ended  func(bypass.Pair)          // called on the shard's thread
	cancel context.CancelFunc
	served chan struct{} // closed when the shard no longer serves
}

// newSplicer makes a splicer that serves until close; ended is called with each connection that
// no longer needs anything.
func newSplicer(ended func(bypass.Pair)) (*splicer, error) {
	s, err := shard.New(shard.Config{})
	if err != nil {
		return nil, fmt.Errorf("start event loop: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	sp := &splicer{
		shard: s, table: flow.New(s, flow.Limits{}), flows: make(map[bypass.Pair]*flow.Flow),
		ended: ended, cancel: cancel, served: make(chan struct{}),
	}
	sp.relay = relay.New(relay.Config{Shard: s, Table: sp.table})
	go func() {
		defer close(sp.served)
		s.Serve(ctx)
	}()
	return sp, nil
}

// take splices a connection whose ends are fds.
func (s *splicer) take(p bypass.Pair, fds [2]int) {
	s.shard.Post(shard.TaskFunc(func() {
		f := &flow.Flow{Kind: flow.Client, Proto: unix.IPPROTO_TCP, Src: p[0], Remote: p[1], FD: -1}
		s.flows[p] = f
		s.table.Add(f)
		s.relay.JoinCarried(connect.Socket{FD: fds[0]}, connect.Socket{FD: fds[1]}, f, func() {
			if s.flows[p] == f {
				delete(s.flows, p)
			}
			s.ended(p)
		})
	}))
}

// end resets a connection.
func (s *splicer) end(p bypass.Pair) {
	s.shard.Post(shard.TaskFunc(func() {
		if f := s.flows[p]; f != nil {
			s.table.End(f)
		}
	}))
}

// list calls done with the connections, on the shard's thread.
func (s *splicer) list(done func([]bypass.Pair)) {
	s.shard.Post(shard.TaskFunc(func() {
		all := make([]bypass.Pair, 0, len(s.flows))
		for p := range s.flows {
			all = append(all, p)
		}
		done(all)
	}))
}

// close resets all connections.
func (s *splicer) close() {
	s.cancel()
	<-s.served
	s.table.Close()
	s.relay.Close()
	s.shard.Close()
}
