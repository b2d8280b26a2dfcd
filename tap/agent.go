package tap

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"epiphyte/internal/shard"
)

// agentName is what process listings show.
const agentName = "epiphyte-agent"

// AgentConfig says where an agent makes its sockets.
type AgentConfig struct {
	Target Target
	// Subnet4 and Subnet6 are the guest's subnets with their gateways, where
	// the network namespace is ours to configure: its policy routing is then
	// set up so that transparent sockets work. Not valid: plain sockets.
	Subnet4, Subnet6   netip.Prefix
	Gateway4, Gateway6 netip.Addr
	// Unconfined leaves the agent all system calls, for debugging.
	Unconfined bool
	Logger     *slog.Logger // nil: the default one
}

// Agent hands out TCP sockets that live in a guest's network namespace. Between
// Attach and Close it belongs to the shard's thread.
type Agent struct {
	cfg    AgentConfig
	ctx    context.Context // the agent's life
	cancel context.CancelFunc
	join   *join
	size   int           // of the stock of each family
	forked chan struct{} // closed when the child runs, or when failed says why not
	failed error
	child  *child        // once forked is closed; nil if it failed
	done   chan struct{} // closed when the child has been reaped

	sock   int // our end of the socket pair; -1: the agent is gone
	err    error
	cookie uint64 // of the guest's network namespace; 0: not known yet
	shard  *shard.Shard
	watch  *shard.Watch
	timer  shard.Timer // fires when what the stocks are short of is to be ordered
	stocks [2]stock
}

// StartAgent starts an agent in the target's namespaces and returns at once; a
// target that does not exist or may not be inspected is an error. Attach and Wait
// come next. Close must be called in the end; ctx bounds the agent's life as well.
func StartAgent(ctx context.Context, cfg AgentConfig) (*Agent, error) {
	j, err := resolve(cfg.Target)
	if err != nil {
		return nil, fmt.Errorf("start socket agent: %w", err)
	}
	ours, theirs, err := socketPair()
	if err != nil {
		j.close()
		return nil, fmt.Errorf("start socket agent: make socket pair: %w", err)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	a := newAgent(cfg, ours)
	a.join = j
	a.ctx, a.cancel = context.WithCancel(ctx)
	go a.hold(theirs)
	return a, nil
}

func newAgent(cfg AgentConfig, sock int) *Agent {
	a := &Agent{cfg: cfg, sock: sock, size: stockSize(), forked: make(chan struct{}), done: make(chan struct{})}
	a.stocks[v4].family, a.stocks[v6].family = unix.AF_INET, unix.AF_INET6
	return a
}

// hold forks the child and reaps it. In between it holds the thread, whose end
// would be the child's (PR_SET_PDEATHSIG).
func (a *Agent) hold(theirs int) {
	defer close(a.done)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	a.child, a.failed = a.fork(theirs)
	close(a.forked)
	unix.Close(theirs) // failed or ended: ours reads the end of file
	if a.child != nil {
		a.child.reap()
	}
}

func (a *Agent) fork(theirs int) (*child, error) {
	var transparent [2]bool
	if a.cfg.Subnet4.IsValid() || a.cfg.Subnet6.IsValid() {
		var err error
		transparent, err = routeMarked(a.ctx, a.join, [2]subnet{{a.cfg.Subnet4, a.cfg.Gateway4}, {a.cfg.Subnet6, a.cfg.Gateway6}})
		if err != nil {
			return nil, fmt.Errorf("set up policy routing: %w", err)
		}
	}
	for f := range a.stocks {
		a.stocks[f].transparent = transparent[f]
	}
	p := newProgram(a.join, theirs)
	var filter []unix.SockFilter
	if !a.cfg.Unconfined {
		filter, _ = agentCalls() // without it the agent is confined by what it holds
	}
	p.agent = newAgentProgram(transparent, filter)
	return p.fork(a.ctx)
}

// Attach gives the agent to a shard that does not serve yet, and orders the
// first sockets.
func (a *Agent) Attach(s *shard.Shard) (err error) {
	a.shard = s
	if a.watch, err = s.Watch(a.sock, unix.EPOLLIN, a); err != nil {
		return fmt.Errorf("attach socket agent: %w", err)
	}
	for f := range a.stocks {
		a.tend(&a.stocks[f])
	}
	return nil
}

// Wait returns when the first sockets are there, or with the reason why there are
// none. It is called once, after Attach and before the shard serves.
func (a *Agent) Wait(ctx context.Context) error {
	select {
	case <-a.forked:
	case <-ctx.Done():
		return ctx.Err()
	}
	for a.sock >= 0 && (a.stocks[v4].ordered > 0 || a.stocks[v6].ordered > 0) {
		// The end of the agent's context kills it, which ends this wait, too.
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(a.sock), Events: unix.POLLIN}}, int(silence.Milliseconds()))
		if err == unix.EINTR {
			continue
		}
		if n == 0 || err != nil {
			return fmt.Errorf("socket agent: no answer within %v", silence)
		}
		a.Ready(unix.EPOLLIN)
	}
	return a.err
}

// Process is the agent's, for those who restrict what may be signalled; nil if it could
// not be started. Wait must have returned nil or an error other than its context's.
func (a *Agent) Process() *os.Process {
	if a.child == nil {
		return nil
	}
	return a.child.process
}

// Transparent reports whether there are sockets of a family that may be bound
// to any address. With others a server of the guest sees the guest's own.
func (a *Agent) Transparent(family int) bool {
	return a.sock >= 0 && a.stocks[familyIndex(family)].transparent
}

func familyIndex(family int) int {
	if family == unix.AF_INET6 {
		return v6
	}
	return v4
}

// end gives up an agent that is gone, or that can no longer be believed.
func (a *Agent) end(err error) {
	a.release()
	a.err = fmt.Errorf("socket agent: %w", err)
	if a.ctx.Err() == nil {
		a.cfg.Logger.Warn("published ports go by the TAP only", "error", err)
	}
	a.cancel()
	a.shard.Disarm(&a.timer)
	for f := range a.stocks {
		a.stocks[f].refuse()
	}
}

// release closes our end and the sockets in stock.
func (a *Agent) release() {
	if a.sock < 0 {
		return
	}
	if a.watch != nil {
		a.watch.Forget()
	}
	unix.Close(a.sock)
	a.sock = -1
	for f := range a.stocks {
		closeAll(a.stocks[f].ready)
		a.stocks[f].ready = nil
	}
}

// Close ends the agent and closes the sockets that nobody took. The shard must
// have stopped serving.
func (a *Agent) Close() error {
	a.cancel()
	<-a.done
	a.release()
	a.join.close()
	return nil
}

// closeAll closes descriptors, of which -1 is none.
func closeAll(fds []int) {
	for _, fd := range fds {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}
