package tap

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"epiphyte/internal/fdwait"
)

// AgentConfig says where an agent makes its sockets.
type AgentConfig struct {
	Target Target
	// Subnet4 and Subnet6 are the guest's subnets with their gateways, where
	// the network namespace is ours to configure: its policy routing is then
	// set up so that transparent sockets work. Not valid: plain sockets.
	Subnet4, Subnet6   netip.Prefix
	Gateway4, Gateway6 netip.Addr
	// Datagrams has the Agent hold UDP sockets, too: see Agent.Datagrams. With NoStreams it
	// holds no TCP sockets, and those that are made on request do not get through to servers.
	Datagrams, NoStreams bool
	// Carries says that Agent.Carry will be called: what an agent that was killed has left of
	// it in the namespace is removed first.
	Carries bool
	// Lasting has the agent end when all copies of its socket are closed, and not with the
	// thread that has started it, so that it takes no thread of ours.
	Lasting bool
	// Unconfined leaves the agent all system calls, for debugging.
	Unconfined bool
	Logger     *slog.Logger // of StartAgent; nil: the default one
}

// AgentProcess is an agent's process. The Agent that takes its sockets may belong to
// another process, which is passed FD and calls AdoptAgent.
type AgentProcess struct {
	cfg         AgentConfig
	ctx         context.Context // the agent's life
	cancel      context.CancelFunc
	join        *join
	forked      chan struct{} // closed when the child runs, or when failed says why not
	failed      error
	child       *child        // once forked is closed; nil if it failed
	transparent [2]bool       // once forked is closed: the families that have such sockets
	done        chan struct{} // closed when the child has been reaped
	sock        int           // our end of the socket pair; -1: it is the Agent's
}

// StartAgentProcess starts an agent in the target's namespaces and returns at once; a
// target that does not exist or may not be inspected is an error. Started comes
// next. Close must be called in the end; ctx bounds the agent's life as well.
func StartAgentProcess(ctx context.Context, cfg AgentConfig) (*AgentProcess, error) {
	j, err := resolve(cfg.Target)
	if err != nil {
		return nil, fmt.Errorf("start socket agent: %w", err)
	}
	ours, theirs, err := socketPair()
	if err != nil {
		j.close()
		return nil, fmt.Errorf("start socket agent: make socket pair: %w", err)
	}
	p := &AgentProcess{cfg: cfg, join: j, sock: ours, forked: make(chan struct{}), done: make(chan struct{})}
	p.ctx, p.cancel = context.WithCancel(ctx)
	go p.hold(theirs)
	return p, nil
}

// hold forks the child and reaps it. In between it holds the thread, whose end would be the
// child's (PR_SET_PDEATHSIG), unless the agent is lasting.
func (p *AgentProcess) hold(theirs int) {
	defer close(p.done)
	if !p.cfg.Lasting {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
	}
	p.child, p.failed = p.fork(theirs)
	p.join.letGo()
	close(p.forked)
	unix.Close(theirs) // failed or ended: ours reads the end of file
	if p.child != nil {
		if p.cfg.Lasting {
			awaitEnd(p.child.process.Pid)
		}
		p.child.reap()
	}
}

// awaitEnd waits for the end of a child without a thread. On a kernel that cannot (Linux
// before 5.3), reaping waits with one.
func awaitEnd(pid int) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err == nil {
		f := os.NewFile(uintptr(fd), "agent")
		fdwait.Ended(f)
		f.Close()
	}
}

func (p *AgentProcess) fork(theirs int) (*child, error) {
	if p.cfg.Subnet4.IsValid() || p.cfg.Subnet6.IsValid() {
		var err error
		if p.transparent, err = p.cfg.route(p.join); err != nil {
			return nil, fmt.Errorf("set up policy routing: %w", err)
		}
	}
	prog := newProgram(p.join, theirs)
	if p.cfg.Lasting {
		prog.parent = 0
	}
	var filter []unix.SockFilter
	if !p.cfg.Unconfined {
		filter, _ = agentCalls() // without it, what the agent holds confines it
	}
	prog.agent = newAgentProgram(p.transparent, filter)
	return prog.start(p.ctx)
}

// Started returns when the agent has been forked, or with the reason why it could not
// be. The Agent is told what fails later, in the guest's namespaces.
func (p *AgentProcess) Started(ctx context.Context) error {
	select {
	case <-p.forked:
		return p.failed
	case <-ctx.Done():
		return ctx.Err()
	}
}

// FD is our end of the agent's socket, to be passed to the process that makes an
// Agent of it; -1 if it is one of ours, and after Close. One Agent may use it at a
// time: of two, each would be sent what the other has ordered.
func (p *AgentProcess) FD() int { return p.sock }

// Transparent reports for which families the agent's sockets may be bound to any
// address. Started must have returned nil.
func (p *AgentProcess) Transparent() (ipv4, ipv6 bool) { return p.transparent[v4], p.transparent[v6] }

// NoStreams is AgentConfig's.
func (p *AgentProcess) NoStreams() bool { return p.cfg.NoStreams }

// Process is the agent's, for those who restrict what may be signalled; nil if it
// could not be started. Started must have returned nil or an error other than its
// context's.
func (p *AgentProcess) Process() *os.Process {
	if p.child == nil {
		return nil
	}
	return p.child.process
}

// Done is closed when the agent has ended, by Close or by the guest's root, or could not
// be started.
func (p *AgentProcess) Done() <-chan struct{} { return p.done }

// Close ends the agent. The sockets that it made live on.
func (p *AgentProcess) Close() error {
	p.cancel()
	<-p.done
	if p.sock >= 0 {
		unix.Close(p.sock)
		p.sock = -1
	}
	p.join.close()
	return nil
}
