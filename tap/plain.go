package tap

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"epiphyte/internal/shard"
)

// Plain has the agent make n sockets of a family and a type, SOCK_STREAM or SOCK_DGRAM,
// for the caller to bind: see Sockets. Any goroutine but the shard's may call it, while the
// shard serves. The error wraps EAFNOSUPPORT where the kernel lacks the family; after an
// error no socket is left.
func (a *Agent) Plain(ctx context.Context, family, typ, n int) ([]int, error) {
	var all []int
	for len(all) < n {
		fds, err := a.plain(ctx, family, typ, min(n-len(all), maxSockets))
		if all = append(all, fds...); err != nil {
			closeAll(all)
			return nil, fmt.Errorf("get sockets from the agent: %w", err)
		}
	}
	return all, nil
}

// plain is Plain for at most as many as one answer carries.
func (a *Agent) plain(ctx context.Context, family, typ, n int) ([]int, error) {
	code := byte(family) | orderPlain
	if typ == unix.SOCK_DGRAM {
		code |= orderDatagrams
	}
	type outcome struct {
		fds []int
		err error
	}
	answered := make(chan outcome, 1)
	var got outcome // the shard's, until it is sent
	missing := n
	posted := a.shard.Post(shard.TaskFunc(func() {
		s := a.stockOf(code)
		for range n {
			a.take(s, func(fd int) (kept bool) {
				if missing--; fd >= 0 && ctx.Err() == nil {
					got.fds = append(got.fds, fd)
					kept = true
				}
				if missing > 0 {
					return kept
				}
				switch {
				case ctx.Err() != nil: // the caller has gone, or is about to
					closeAll(got.fds)
					got = outcome{err: context.Cause(ctx)}
				case len(got.fds) == n:
				case s.absent:
					got.err = unix.EAFNOSUPPORT
				default:
					got.err = errors.New("there are none to be had")
				}
				answered <- got
				return kept
			})
		}
	}))
	if !posted {
		return nil, errors.New("the guest is not served any more")
	}
	select {
	case o := <-answered:
		return o.fds, o.err
	case <-ctx.Done():
		a.shard.Post(shard.TaskFunc(func() { // an answer that came meanwhile
			select {
			case o := <-answered:
				closeAll(o.fds)
			default:
			}
		}))
		return nil, context.Cause(ctx)
	}
}
