package tap

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"

	"golang.org/x/sys/unix"

	"epiphyte/internal/shard"
)

// agentName is what process listings show.
const agentName = "epiphyte-agent"

// Agent hands out TCP sockets that live in a guest's network namespace. Between
// Attach and Close it belongs to the shard's thread.
type Agent struct {
	process *AgentProcess // nil: another process's
	log     *slog.Logger
	sock    int     // our end of the socket pair; -1: the agent is gone
	tag     [2]byte // of our orders; answers to a predecessor's bear another
	err     error
	cookie  uint64 // of the guest's network namespace; 0: not known yet
	shard   *shard.Shard
	watch   *shard.Watch
	timer   shard.Timer        // fires when stocks are to be filled up
	stocks  [8]stock           // v4 and v6, and plain ones: see plain
	changes []func(unix.Errno) // callbacks of changes of rules under way, the oldest first
	unsent  []unsent           // those that come after them
}

// StartAgent starts an agent in the target's namespaces and returns at once; a
// target that does not exist or may not be inspected is an error. Attach and Wait
// come next. Close must be called in the end; ctx bounds the agent's life as well.
func StartAgent(ctx context.Context, cfg AgentConfig) (*Agent, error) {
	p, err := StartAgentProcess(ctx, cfg)
	if err != nil {
		return nil, err
	}
	a := newAgent(p.sock, cfg.Logger)
	a.process, p.sock = p, -1
	if cfg.Datagrams {
		a.stocks[datagrams4].size, a.stocks[datagrams6].size = datagramStock, datagramStock
	}
	if cfg.NoStreams {
		a.stocks[v4].size, a.stocks[v6].size = 0, 0
	}
	return a, nil
}

// AdoptConfig is an agent of another process.
type AdoptConfig struct {
	// FD is what AgentProcess.FD was there. It is duplicated: the caller keeps its
	// own.
	FD int
	// Transparent4 and Transparent6 are what AgentProcess.Transparent said.
	Transparent4, Transparent6 bool
	NoStreams                  bool         // as in AgentConfig there
	Logger                     *slog.Logger // nil: the default one
}

// AdoptAgent makes an Agent of another process's AgentProcess, whose sockets are
// checked as ours are. Attach comes next, and Wait where the shard does not serve
// yet. The agent ends with the other process. What a predecessor with the same socket
// has ordered and not received, because it was killed, say, is thrown away.
func AdoptAgent(cfg AdoptConfig) (*Agent, error) {
	op := fmt.Sprintf("use socket agent on fd %d", cfg.FD)
	typ, err := unix.GetsockoptInt(cfg.FD, unix.SOL_SOCKET, unix.SO_TYPE)
	if err == nil && typ != unix.SOCK_SEQPACKET {
		err = unix.EPROTOTYPE
	}
	if err != nil {
		return nil, fail(op, err, "")
	}
	sock, err := unix.FcntlInt(uintptr(cfg.FD), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fail(op, err, "")
	}
	a := newAgent(sock, cfg.Logger)
	a.setTransparent([2]bool{cfg.Transparent4, cfg.Transparent6}, cfg.NoStreams)
	return a, nil
}

// setTransparent notes for which families there are sockets that may have any address.
func (a *Agent) setTransparent(transparent [2]bool, noStreams bool) {
	for f, yes := range transparent {
		a.stocks[f].transparent = yes && !noStreams
		a.stocks[repair4+f].transparent = yes
		if noStreams {
			a.stocks[f].size = 0
		}
	}
}

func newAgent(sock int, log *slog.Logger) *Agent {
	if log == nil {
		log = slog.Default()
	}
	a := &Agent{log: log, sock: sock}
	binary.NativeEndian.PutUint16(a.tag[:], uint16(rand.Uint32()))
	size := stockSize()
	a.stocks = [...]stock{
		v4: {family: unix.AF_INET, size: size},
		v6: {family: unix.AF_INET6, size: size},
		{family: unix.AF_INET, flags: orderPlain},
		{family: unix.AF_INET6, flags: orderPlain},
		datagrams4: {family: unix.AF_INET, flags: orderPlain | orderDatagrams},
		datagrams6: {family: unix.AF_INET6, flags: orderPlain | orderDatagrams},
		repair4:    {family: unix.AF_INET, flags: orderRepair},
		{family: unix.AF_INET6, flags: orderRepair},
	}
	return a
}

// Attach gives the agent to a shard, on its thread if it serves already, and orders
// the first sockets.
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
	if p := a.process; p != nil {
		p.Started(ctx) // the reason for a failure is read from the socket, below
		if err := ctx.Err(); err != nil {
			return err
		}
		a.setTransparent(p.transparent, p.cfg.NoStreams)
	}
	first := a.stocks[v4 : v6+1]
	if first[v4].size == 0 {
		first = a.stocks[datagrams4 : datagrams6+1]
	}
	for a.sock >= 0 && (first[v4].ordered > 0 || first[v6].ordered > 0) {
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
// not be started, or is another process's. Wait must have returned nil or an error
// other than its context's.
func (a *Agent) Process() *os.Process {
	if a.process == nil {
		return nil
	}
	return a.process.Process()
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

// end gives up an agent that is gone, or that can no longer be trusted.
func (a *Agent) end(err error) {
	a.release()
	a.err = fmt.Errorf("socket agent: %w", err)
	if !a.dismissed(err) {
		a.log.Warn("published ports and bulk go by the TAP only", "error", err)
	}
	if a.process != nil {
		a.process.cancel()
	}
	for f := range a.stocks {
		a.stocks[f].refuse()
	}
	a.abandonChanges()
}

// dismissed reports whether the agent was ended on purpose, which needs no warning: by
// us, or by the process that has it, when the guest leaves.
func (a *Agent) dismissed(err error) bool {
	if a.process == nil {
		return errors.Is(err, errSilent)
	}
	return a.process.ctx.Err() != nil
}

// release closes our end and the sockets in stock.
func (a *Agent) release() {
	if a.sock < 0 {
		return
	}
	if a.watch != nil {
		a.unwatch()
		a.shard.Disarm(&a.timer)
	}
	unix.Close(a.sock)
	a.sock = -1
	for f := range a.stocks {
		closeAll(a.stocks[f].ready)
		a.stocks[f].ready = nil
	}
}

// unwatch comes before our end is closed: closing takes it out of the kernel's set only
// where nobody has a copy.
func (a *Agent) unwatch() {
	if a.process == nil {
		a.watch.Close()
	} else {
		a.watch.Forget()
	}
}

// join is how the agent got to where it is, for its reports.
func (a *Agent) join() *join {
	if a.process == nil {
		return new(join)
	}
	return a.process.join
}

// Close ends the agent and closes the sockets that nobody took. The shard must have
// stopped serving. An agent of another process goes on, until that closes its copy of
// the socket as well; Close is called on the shard's thread then.
func (a *Agent) Close() error {
	a.finishChanges()
	if a.process != nil {
		a.process.Close()
	}
	a.release()
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
