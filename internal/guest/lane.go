package guest

import (
	"context"
	"fmt"

	"epiphyte/forwarder"
	"epiphyte/internal/relay"
	"epiphyte/internal/shard"
	"epiphyte/internal/steer"
	"epiphyte/stack"
)

// lane is what one thread moves: a queue of the device, and a stack, a forwarder
// and a relay of its own.
type lane struct {
	shard     *shard.Shard
	stack     *stack.Stack
	relay     *relay.Relay
	forwarder *forwarder.Forwarder
	steered   *steer.Lane // nil: there is only one lane
}

// newLane builds lane i as far as it goes; after an error the caller closes it.
func (g *Guest) newLane(i int, cfg *Config, fc forwarder.Config, sc stack.Config) (l *lane, err error) {
	l = new(lane)
	if l.shard, err = shard.New(shard.Config{}); err != nil {
		return l, fmt.Errorf("start event loop: %w", err)
	}
	l.relay = relay.New(l.shard, cfg.BufferBytes)
	if g.steering != nil {
		l.steered = g.steering.Lane(i)
		sc.Device, sc.Claims = l.steered, g.steering
		sc.Lane, sc.Lanes = i, 1+len(cfg.Queues)
	}
	fc.Shard, fc.Relay = l.shard, l.relay
	if i == 0 {
		g.serveNames(l.shard, cfg, &fc)
	} else {
		fc.DHCP, sc.RouterAdvertisement = nil, nil
	}
	l.forwarder = forwarder.New(fc)
	sc.Shard, sc.Handler = l.shard, l.forwarder
	if l.stack, err = stack.New(sc); err != nil {
		return l, fmt.Errorf("build network stack: %w", err)
	}
	l.forwarder.Attach(l.stack)
	if l.steered != nil {
		l.steered.Attach(l.shard, l.stack)
	}
	return l, nil
}

// serve runs the lane's shard until ctx ends, or ends it with the reason why it
// cannot go on.
func (l *lane) serve(ctx context.Context, cancel context.CancelCauseFunc) error {
	watcher := make(chan struct{})
	go func() {
		defer close(watcher)
		select {
		case err := <-l.stack.Failed():
			cancel(err)
		case <-ctx.Done():
		}
	}()
	err := l.shard.Serve(ctx)
	cancel(err)
	<-watcher
	return err
}
