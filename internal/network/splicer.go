package network

import (
	"context"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"epiphyte/internal/bypass"
	"epiphyte/internal/connect"
	"epiphyte/internal/flow"
	"epiphyte/internal/relay"
	"epiphyte/internal/shard"
)

// splicer splices connections between members that have left the bridge, in a process that
// outlives the network's worker. It starts with the first one. Only tell is set before.
type splicer struct {
	// tell tells the worker that connections have ended, or which are carried. After an error
	// nobody was told.
	tell func(op operation, connections []bypass.Pair) error

	shard  *shard.Shard // nil: not started
	table  *flow.Table
	relay  *relay.Relay
	flows  map[bypass.Pair]*flow.Flow // shard's thread only
	cancel context.CancelFunc
	served chan struct{} // closed when the shard no longer serves

	mu     sync.Mutex
	untold []bypass.Pair // have ended
}

func (s *splicer) start() (err error) {
	if s.shard != nil {
		return nil
	}
	if s.shard, err = shard.New(shard.Config{}); err != nil {
		return fmt.Errorf("start event loop: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.table, s.flows = flow.New(s.shard, flow.Limits{}), make(map[bypass.Pair]*flow.Flow)
	s.relay = relay.New(relay.Config{Shard: s.shard, Table: s.table})
	s.cancel, s.served = cancel, make(chan struct{})
	go func() {
		defer close(s.served)
		s.shard.Serve(ctx)
	}()
	return nil
}

// take splices a connection whose ends are fds, or resets it and returns why. Like end, tellAll
// and close it is called by one goroutine.
func (s *splicer) take(p bypass.Pair, fds []int) error {
	if err := s.start(); err != nil {
		closeAll(fds)
		s.ended(p)
		return err
	}
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
	return nil
}

// end resets a connection.
func (s *splicer) end(p bypass.Pair) {
	if s.shard == nil {
		return
	}
	s.shard.Post(shard.TaskFunc(func() {
		if f := s.flows[p]; f != nil {
			s.table.End(f)
		}
	}))
}

// ended tells the worker that a connection has ended, or keeps that for the next one.
func (s *splicer) ended(p bypass.Pair) {
	if s.tell(opEnded, []bypass.Pair{p}) != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.untold = append(s.untold, p)
	}
}

// tellAll tells a worker that has been started since what it cannot know.
func (s *splicer) tellAll() {
	s.mu.Lock()
	untold := s.untold
	s.untold = nil
	s.mu.Unlock()
	for _, p := range untold {
		s.ended(p)
	}
	if s.shard == nil {
		return
	}
	s.shard.Post(shard.TaskFunc(func() {
		all := make([]bypass.Pair, 0, len(s.flows))
		for p := range s.flows {
			all = append(all, p)
		}
		s.tell(opCarried, all) // without a worker there will be another
	}))
}

// close resets all connections.
func (s *splicer) close() {
	if s.shard == nil {
		return
	}
	s.cancel()
	<-s.served
	s.table.Close()
	s.relay.Close()
	s.shard.Close()
}
