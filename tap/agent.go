package tap

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// agentName is what process listings show.
const agentName = "epiphyte-agent"

const (
	// poolMax sockets of each family are held, or fewer where descriptors are
	// scarce: one in poolShare of them.
	poolMax   = 32
	poolShare = 32
	// What is missing is made good after topUp, so that an idle program always
	// holds the same. Clients that come faster have more ordered before.
	topUp = 100 * time.Millisecond
)

// AgentConfig says where an agent makes its sockets.
type AgentConfig struct {
	Target Target
	// Subnet4 and Subnet6 are the guest's subnets with their gateways, where
	// the network namespace is ours to configure: its policy routing is then
	// set up so that transparent sockets work. Not valid: plain sockets.
	Subnet4, Subnet6   netip.Prefix
	Gateway4, Gateway6 netip.Addr
	Logger             *slog.Logger // nil: the default one
}

// Agent hands out TCP sockets that live in a guest's network namespace. Any
// goroutine may use it.
type Agent struct {
	cfg    AgentConfig
	log    *slog.Logger
	cancel context.CancelFunc
	ready  chan struct{} // closed when the first sockets are there, or none will be
	done   chan struct{} // closed when the agent is reaped and nothing is left
	short  chan struct{} // sockets are to be ordered
	size   int           // of the pool, per family

	talk talk // taken before mu

	mu     sync.Mutex
	err    error    // why there are none
	marked [2]bool  // of the families, whether sockets are transparent
	pool   [2][]int // ready-made sockets
	closed bool     // no socket is to be added any more
	later  bool     // an order is due after topUp
}

// StartAgent starts an agent in the target's namespaces and returns at once; a
// target that does not exist or may not be inspected is an error. Close must be
// called in the end; ctx bounds the agent's life as well.
func StartAgent(ctx context.Context, cfg AgentConfig) (*Agent, error) {
	if cfg.Target.FD > 0 || cfg.Target.PID <= 0 && cfg.Target.NetNS == "" {
		return nil, errors.New("start socket agent: no target namespace given")
	}
	j, err := resolve(cfg.Target)
	if err != nil {
		return nil, fmt.Errorf("start socket agent: %w", err)
	}
	a := &Agent{
		cfg: cfg, log: cfg.Logger,
		ready: make(chan struct{}), done: make(chan struct{}), short: make(chan struct{}, 1),
		talk: talk{sock: -1},
	}
	if a.log == nil {
		a.log = slog.Default()
	}
	a.size = poolMax
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) == nil {
		a.size = int(max(1, min(poolMax, limit.Cur/poolShare)))
	}
	ctx, a.cancel = context.WithCancel(ctx)
	go a.run(ctx, j)
	return a, nil
}

// Wait returns when the first sockets are ready, or with the reason why there
// will be none.
func (a *Agent) Wait(ctx context.Context) error {
	select {
	case <-a.ready:
	case <-ctx.Done():
		return ctx.Err()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.err
}

// Socket takes a non-blocking, close-on-exec TCP socket of a family, AF_INET or
// AF_INET6, that is neither bound nor connected. It never waits; false means
// that there is none now, or that the agent is gone.
func (a *Agent) Socket(family int) (fd int, ok bool) {
	f := familyIndex(family)
	a.mu.Lock()
	n := len(a.pool[f])
	if n > 0 {
		fd, ok = a.pool[f][n-1], true
		a.pool[f] = a.pool[f][:n-1]
	}
	later := a.later
	a.later = true
	a.mu.Unlock()
	if !later {
		time.AfterFunc(topUp, a.wantMore)
	}
	if left := max(0, n-1); left <= a.size/2 {
		a.refill(family, left)
	}
	return fd, ok
}

func (a *Agent) wantMore() {
	select {
	case a.short <- struct{}{}:
	default:
	}
}

// Transparent reports whether there are sockets of a family that may be bound
// to any address. With others a server of the guest sees the guest's own.
func (a *Agent) Transparent(family int) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return !a.closed && a.marked[familyIndex(family)]
}

func familyIndex(family int) int {
	if family == unix.AF_INET6 {
		return v6
	}
	return v4
}

// Close ends the agent and closes the sockets that nobody took.
func (a *Agent) Close() error {
	a.cancel()
	<-a.done
	return nil
}

// run is the agent's whole life. It holds its thread, whose end would be the
// agent's.
func (a *Agent) run(ctx context.Context, j *join) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(a.done)
	defer a.cancel()
	err := a.serve(ctx, j)
	a.mu.Lock()
	a.closed = true
	if a.err == nil {
		a.err = fmt.Errorf("socket agent: %w", err)
	}
	for f := range a.pool {
		for _, fd := range a.pool[f] {
			unix.Close(fd)
		}
		a.pool[f] = nil
	}
	a.mu.Unlock()
	a.becomeReady()
	if ctx.Err() == nil {
		a.log.Warn("published ports go by the TAP only", "error", err)
	}
}

func (a *Agent) becomeReady() {
	select {
	case <-a.ready:
	default:
		close(a.ready)
	}
}

// serve starts the agent and stays until it has ended.
func (a *Agent) serve(ctx context.Context, j *join) error {
	defer j.close()
	if a.cfg.Subnet4.IsValid() || a.cfg.Subnet6.IsValid() {
		marked, err := routeMarked(ctx, j, [2]subnet{{a.cfg.Subnet4, a.cfg.Gateway4}, {a.cfg.Subnet6, a.cfg.Gateway6}})
		if err != nil {
			return fmt.Errorf("set up policy routing: %w", err)
		}
		a.mu.Lock()
		a.marked = marked
		a.mu.Unlock()
	}
	ours, theirs, err := socketPair()
	if err != nil {
		return fmt.Errorf("make socket pair: %w", err)
	}
	l := newLaunch(j, theirs)
	l.agent = newAgentChild(a.marked)
	pid, errno := l.start()
	unix.Close(theirs)
	if errno != 0 {
		unix.Close(ours)
		return fail("fork", errno, hintFork(errno))
	}

	ctx, cancel := context.WithCancelCause(ctx)
	ordering := make(chan struct{})
	go func() {
		defer close(ordering)
		cancel(a.order(ctx, ours, j))
	}()
	killed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		unix.Kill(pid, unix.SIGKILL)
		close(killed)
	})
	// Reaped only when nobody is about to kill it by number.
	awaitExit(pid)
	if !stop() {
		<-killed
	}
	status := reap(pid)
	cancel(errors.New(status))
	<-ordering
	return context.Cause(ctx)
}

// awaitExit waits until a child has ended and leaves it to be reaped.
func awaitExit(pid int) {
	for unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
	}
}
