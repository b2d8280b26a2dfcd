package tap

import (
	"context"
	"fmt"
	"slices"
)

// Open makes or attaches to the device that cfg describes and returns it ready
// for use. It takes a few milliseconds, up to about a second where the device
// is busy. When ctx ends first, its error is returned and nothing is left.
//
// Errors are one line with cause and remedy and wrap the errno where there is
// one: EPERM and EACCES for a lack of permission, ESRCH for a process that does
// not exist, EBUSY for a device in use, ENOENT for a missing path.
func Open(ctx context.Context, cfg Config) (*Device, error) {
	d, err := cfg.open(ctx)
	if err != nil {
		return nil, fmt.Errorf("open TAP: %w", err)
	}
	d.log(cfg)
	return d, nil
}

func (cfg Config) open(ctx context.Context) (*Device, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if cfg.Target.FD > 0 {
		return adopt(cfg)
	}
	j, err := resolve(cfg.Target)
	if err != nil {
		return nil, err
	}
	defer j.close()
	var d *Device
	if cfg.LoopbackOnly {
		d, err = openLoopback(j)
	} else {
		d, err = cfg.openIn(ctx, j)
	}
	if ctx.Err() != nil {
		if d != nil {
			d.Close()
		}
		return nil, context.Cause(ctx)
	}
	return d, err
}

// openIn makes or attaches to the device in the namespaces that j leads to, by
// descriptors that a child opens there.
func (cfg Config) openIn(ctx context.Context, j *join) (*Device, error) {
	queues := max(1, cfg.Queues)
	requests := append(slices.Repeat([]request{openTun()}, queues), openRtnetlink())
	results, err := ask(j, requests...)
	if err != nil {
		return nil, err
	}
	tuns := results[:queues]
	conn, err := newRtnetlinkConn(results[queues])
	var d *Device
	if err == nil {
		defer conn.Close()
		d, err = cfg.attach(ctx, tuns, conn)
	}
	if err != nil {
		closeResults(tuns)
		return nil, err
	}
	return d, nil
}
