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
	dev, err := cfg.open(ctx)
	if err != nil {
		return nil, fmt.Errorf("open TAP: %w", err)
	}
	dev.log(cfg)
	return dev, nil
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
	dev, err := cfg.make(ctx, j)
	if ctx.Err() != nil {
		if dev != nil {
			dev.Close()
		}
		return nil, context.Cause(ctx)
	}
	return dev, err
}
