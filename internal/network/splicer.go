package network

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

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
	flows  map[bypass.Pair]*spliced // shard's thread only, like
	none   chan struct{}            // closed when there is no flow; nil: nobody waits
	cancel context.CancelFunc
	served chan struct{} // closed when the shard no longer serves

	outbox  outbox // to the worker
	sending sync.WaitGroup

	mu      sync.Mutex
	untold  []bypass.Pair // have ended while there was no worker
	started *shard.Shard  // for windUp, which another goroutine calls
}

// windUpFor is how long a connection whose member has ended it, and leaves, may go on: bytes that
// were acknowledged to the member are delivered.
const windUpFor = 5 * time.Second

// spliced is one connection.
type spliced struct {
	flow  *flow.Flow
	over  bool   // the flow has left the table; only acknowledgements are waited for
	fds   [2]int // its ends, until then
	timer shard.Timer
}

func (s *splicer) start() (err error) {
	if s.shard != nil {
		return nil
	}
	if s.shard, err = shard.New(shard.Config{}); err != nil {
		return fmt.Errorf("start event loop: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.table, s.flows = flow.New(s.shard, flow.Limits{}), make(map[bypass.Pair]*spliced)
	s.relay = relay.New(relay.Config{Shard: s.shard, Table: s.table})
	s.cancel, s.served = cancel, make(chan struct{})
	s.mu.Lock()
	s.started = s.shard
	s.mu.Unlock()
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
		c := &spliced{fds: [2]int(fds)}
		c.flow = &flow.Flow{
			Kind: flow.Client, Proto: unix.IPPROTO_TCP, Src: p[0], Remote: p[1], FD: -1,
			Ended: func(time.Duration) { c.over = true },
		}
		s.flows[p] = c
		s.table.Add(c.flow)
		s.relay.JoinCarried(connect.Socket{FD: fds[0]}, connect.Socket{FD: fds[1]}, c.flow, func() {
			s.shard.Disarm(&c.timer)
			if s.flows[p] == c {
				delete(s.flows, p)
			}
			s.ended(p)
			s.tellNone()
		})
	}))
	return nil
}

// end ends a connection, one of whose members leaves.
func (s *splicer) end(p bypass.Pair) {
	if s.shard == nil {
		return
	}
	s.shard.Post(shard.TaskFunc(func() {
		if c := s.flows[p]; c != nil {
			s.wind(c)
		}
	}))
}

// wind ends a connection at once, unless a member has ended it in order.
func (s *splicer) wind(c *spliced) {
	switch {
	case c.over:
	case isShut(c.fds[0]) || isShut(c.fds[1]):
		s.shard.Arm(&c.timer, windUpFor, shard.TaskFunc(func() { s.table.End(c.flow) }))
	default:
		s.table.End(c.flow)
	}
}

// isShut reports whether a socket has received an end of stream.
func isShut(fd int) bool {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	return err == nil && info.State == unix.BPF_TCP_CLOSE_WAIT
}

// windUp ends all connections of the member, which leaves, and returns when they have ended, or
// after windUpFor.
func (s *splicer) windUp() {
	s.mu.Lock()
	started := s.started
	s.mu.Unlock()
	if started == nil {
		return
	}
	none := make(chan struct{})
	started.Post(shard.TaskFunc(func() {
		s.none = none
		for _, c := range s.flows {
			s.wind(c)
		}
		s.tellNone()
	}))
	select {
	case <-none:
	case <-s.served:
	case <-time.After(windUpFor):
	}
}

// tellNone ends windUp once there is nothing left.
func (s *splicer) tellNone() {
	if s.none != nil && len(s.flows) == 0 {
		close(s.none)
		s.none = nil
	}
}

// ended tells the worker that connections have ended, or keeps that for the next one.
func (s *splicer) ended(pairs ...bypass.Pair) {
	s.outbox.post(&s.sending, message{
		send: func() error { return s.tell(opEnded, pairs) },
		sent: func(err error) {
			if err != nil {
				s.mu.Lock()
				defer s.mu.Unlock()
				s.untold = append(s.untold, pairs...)
			}
		},
	})
}

// tellAll tells a worker that has been started since what it cannot know.
func (s *splicer) tellAll() {
	s.mu.Lock()
	untold := s.untold
	s.untold = nil
	s.mu.Unlock()
	if len(untold) > 0 {
		s.ended(untold...)
	}
	if s.shard == nil {
		return
	}
	s.shard.Post(shard.TaskFunc(func() {
		all := slices.Collect(maps.Keys(s.flows))
		s.outbox.post(&s.sending, message{send: func() error { return s.tell(opCarried, all) }}) // without a worker there will be another
	}))
}

// close resets all connections.
func (s *splicer) close() {
	defer s.sending.Wait()
	if s.shard == nil {
		return
	}
	s.cancel()
	<-s.served
	s.table.Close()
	s.relay.Close()
	s.shard.Close()
}
