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

// worker is what one thread moves: a queue of the device, and a stack, a forwarder
// and a relay of its own.
type worker struct {
	shard     *shard.Shard
	stack     *stack.Stack
	relay     *relay.Relay
	forwarder *forwarder.Forwarder
	steered   *steer.Worker // nil: there is only one worker
}

// newWorker builds worker i as far as it goes; after an error the caller closes it.
func (g *Guest) newWorker(i int, cfg *Config, fc forwarder.Config, sc stack.Config) (w *worker, err error) {
	w = new(worker)
	if w.shard, err = shard.New(shard.Config{}); err != nil {
		return w, fmt.Errorf("start event loop: %w", err)
	}
	w.relay = relay.New(w.shard, cfg.BufferBytes)
	if g.steering != nil {
		w.steered = g.steering.Worker(i)
		sc.Device, sc.Claims = w.steered, g.steering
		sc.Worker, sc.Workers = i, 1+len(cfg.Queues)
	}
	fc.Shard, fc.Relay = w.shard, w.relay
	if i == 0 {
		g.serveNames(w.shard, cfg, &fc)
	} else {
		fc.DHCP, sc.RouterAdvertisement = nil, nil
	}
	w.forwarder = forwarder.New(fc)
	sc.Shard, sc.Handler = w.shard, w.forwarder
	if w.stack, err = stack.New(sc); err != nil {
		return w, fmt.Errorf("build network stack: %w", err)
	}
	w.forwarder.Attach(w.stack)
	if w.steered != nil {
		w.steered.Attach(w.shard, w.stack)
	}
	return w, nil
}

// serve runs the worker's shard until ctx ends, or ends it with the reason why it
// cannot go on.
func (w *worker) serve(ctx context.Context, cancel context.CancelCauseFunc) error {
	watcher := make(chan struct{})
	go func() {
		defer close(watcher)
		select {
		case err := <-w.stack.Failed():
			cancel(err)
		case <-ctx.Done():
		}
	}()
	err := w.shard.Serve(ctx)
	cancel(err)
	<-watcher
	return err
}
