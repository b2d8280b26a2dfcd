package tap

import (
	"context"
	"fmt"
)

// Open makes or attaches to the device that cfg describes and returns it ready
// for use. It takes a few milliseconds, up to about a second where the device
// is busy. When ctx ends first, its error is returned and nothing is left.
//
// Errors are one line with cause and remedy and wrap the errno where there is
// one: EPERM and EACCES for a lack of permission, ESRCH for a process that does
// not exist, EBUSY for a device in use, ENOENT for a missing path.
func Open(ctx context.Context, cfg Config) (*Device, error) {
	p, err := Start(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return p.Wait()
}

// Pending is a device in the making.
type Pending struct {
	cancel context.CancelFunc
	done   chan struct{}
	dev    *Device // set before done is closed
	err    error   // likewise
}

// Start begins to open the device and returns at once, so that the caller can
// build the rest meanwhile. A target that does not exist or may not be
// inspected is an error here already; all else is reported by Wait. Exactly one
// of Wait and Close must be called afterwards.
func Start(ctx context.Context, cfg Config) (*Pending, error) {
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("open TAP: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("open TAP: %w", err)
	}
	p := &Pending{done: make(chan struct{}), cancel: func() {}}
	if cfg.Target.FD > 0 {
		defer close(p.done)
		var err error
		if p.dev, err = adopt(cfg); err != nil {
			return nil, fmt.Errorf("open TAP: %w", err)
		}
		p.dev.log(cfg)
		return p, nil
	}
	j, err := resolve(cfg.Target)
	if err != nil {
		return nil, fmt.Errorf("open TAP: %w", err)
	}
	ctx, p.cancel = context.WithCancel(ctx)
	go p.run(ctx, cfg, j)
	return p, nil
}

// Wait returns the device, or the error that prevented it. The device is the
// caller's to close.
func (p *Pending) Wait() (*Device, error) {
	<-p.done
	p.cancel()
	return p.dev, p.err
}

// Close gives the device up, whether it is ready or not.
func (p *Pending) Close() error {
	p.cancel()
	<-p.done
	if p.dev != nil {
		return p.dev.Close()
	}
	return nil
}

func (p *Pending) run(ctx context.Context, cfg Config, j *join) {
	defer close(p.done)
	defer j.close()
	dev, err := cfg.make(ctx, j)
	if ctx.Err() != nil {
		if dev != nil {
			dev.Close()
		}
		dev, err = nil, context.Cause(ctx)
	}
	if err != nil {
		p.err = fmt.Errorf("open TAP: %w", err)
		return
	}
	dev.log(cfg)
	p.dev = dev
}
