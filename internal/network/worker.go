package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"epiphyte/internal/addressing"
	"epiphyte/internal/api"
	"epiphyte/internal/bridge"
	"epiphyte/internal/bypass"
	"epiphyte/internal/flow"
	"epiphyte/internal/guest"
	"epiphyte/internal/names"
	"epiphyte/internal/netdef"
	"epiphyte/internal/pcap"
	"epiphyte/internal/policy"
	"epiphyte/internal/shard"
	"epiphyte/tap"

	"golang.org/x/sys/unix"
)

// workerName is argv[0] of the worker.
const workerName = "epiphyte-network"

// IsWorker reports whether this process was started as a network's worker. main must call it
// before it looks at flags.
func IsWorker() bool { return len(os.Args) == 1 && os.Args[0] == workerName }

// Descriptors that a worker inherits.
const (
	listenerFD = 3
	controlFD  = 4
)

// linger is how long a network is served without members: those that restart find it as they
// left it.
const linger = 5 * time.Second

// WorkerConfig of OpenWorker. Paths is required.
type WorkerConfig struct {
	Paths      netdef.Paths
	ResolvConf string // of the host; /etc/resolv.conf if empty
	Logger     *slog.Logger
	// Version is what clients are told.
	Version string
}

// Worker serves one network: its bridge, its stack and its members. Its methods may be
// called by any goroutine.
type Worker struct {
	cfg      WorkerConfig
	def      netdef.Definition
	plan     addressing.Plan
	listener *net.UnixListener
	netns    uint64 // cookie of the host's network namespace; 0: not known
	control  *net.UnixConn
	restored []restored // members of the worker before, until Serve

	shard  *shard.Shard
	bridge *bridge.Bridge
	bypass *bypass.Manager
	frames pcap.Tee // what passes the bridge, each frame once: as a member or the gateway sends it
	names  *names.Table
	guest  *guest.Guest
	served chan struct{} // closed when guest.Serve has returned

	// The shard's thread only:
	byAddress map[netip.Addr]*membership // on the bridge
	guests    map[netip.Addr]*flow.Guest // set before they are on the bridge
	leases    map[[6]byte]netip.Addr
	others    *others

	changing sync.Mutex    // held while what is known of a member changes, here and at the keeper
	telling  sync.Mutex    // held while a message is sent to the keeper
	refusing chan struct{} // one element for each client that is being refused

	mu         sync.Mutex
	members    map[string]*membership   // by id
	remembered map[string]netip.Addr    // by name, also of members that have left
	dropping   map[string]chan struct{} // closed when the keeper has dropped a member
	conns      map[*net.UnixConn]struct{}
	ending     bool
	idle       *time.Timer
	tasks      sync.WaitGroup
}

type restored struct {
	member Member
	with   descriptors
}

// OpenWorker builds the network that the keeper orders. It has told the keeper of an error
// that it returns.
func OpenWorker(cfg WorkerConfig) (_ *Worker, err error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	control, err := connOf(controlFD)
	if err != nil {
		return nil, fmt.Errorf("worker: open control connection: %w", err)
	}
	w := &Worker{
		cfg:        cfg,
		control:    control,
		served:     make(chan struct{}),
		byAddress:  make(map[netip.Addr]*membership),
		guests:     make(map[netip.Addr]*flow.Guest),
		leases:     make(map[[6]byte]netip.Addr),
		members:    make(map[string]*membership),
		remembered: make(map[string]netip.Addr),
		dropping:   make(map[string]chan struct{}),
		conns:      make(map[*net.UnixConn]struct{}),
		refusing:   make(chan struct{}, maxRefused),
	}
	defer func() {
		if err != nil {
			w.tell(order{Op: opFailed, Text: err.Error()})
			w.Close()
		}
	}()
	if err := w.receiveOrders(); err != nil {
		return nil, fmt.Errorf("worker: receive orders: %w", err)
	}
	file := os.NewFile(listenerFD, "listener")
	l, err := net.FileListener(file)
	file.Close()
	if err != nil {
		return nil, fmt.Errorf("worker: open listener: %w", err)
	}
	w.listener = l.(*net.UnixListener)
	w.listener.SetUnlinkOnClose(false) // the keeper's to remove
	w.netns, _ = api.NetnsCookie(w.listener)
	return w, w.build()
}

// receiveOrders reads what the keeper sends at start.
func (w *Worker) receiveOrders() error {
	for {
		var o order
		fds, err := receive(w.control, &o)
		if err != nil {
			return err
		}
		switch o.Op {
		case opStart:
			w.def = *o.Definition
		case opKeep:
			with, err := assign(o.Roles, fds)
			if err != nil {
				closeAll(fds)
				return err
			}
			w.restored = append(w.restored, restored{*o.Member, with})
			fds = nil
		case opServe:
			return nil
		}
		closeAll(fds)
	}
}

func (w *Worker) build() (err error) {
	if w.plan, err = addressing.NewNetwork(w.def.Subnet, w.def.Subnet6); err != nil {
		return err
	}
	if w.shard, err = shard.New(shard.Config{}); err != nil {
		return fmt.Errorf("start event loop: %w", err)
	}
	w.bridge, err = bridge.New(bridge.Config{
		Shard:   w.shard,
		Plan:    w.plan,
		Isolate: w.def.Isolate,
		USO:     tap.KernelHasUSO(),
		Gone:    w.portGone,
		Busy:    func(c *bridge.Conn) { w.bypass.Busy(c) },
		Logger:  w.cfg.Logger,
	})
	if err != nil {
		return err
	}
	// Who captures wants to see the frames.
	w.bypass = bypass.New(bypass.Config{Shard: w.shard, Bridge: w.bridge, Stay: w.frames.Running})
	w.others = newOthers(w.cfg.Paths, w.def.Name)
	w.names = names.New(names.Config{
		Network:  w.def.Name,
		Gateways: w.plan.Own(),
		Subnets:  []netip.Prefix{w.plan.Prefix, w.plan.Prefix6},
		Internal: w.def.Internal,
	})
	w.guest, err = guest.New(guest.Config{
		Device: w.frames.Device(w.bridge, pcap.TowardGuest),
		Shard:  w.shard,
		Rules: policy.Rules{
			Plan:                w.plan,
			DisableHostLoopback: !w.def.AllowHostLoopback,
			DisableDNS:          w.def.NoDNS,
			Internal:            w.def.Internal,
		},
		Members:    members{w.bridge, w},
		Kernel:     w.kernel,
		Stay:       w.frames.Running,
		StaticIPv6: true,
		MTU:        w.def.MTU,
		ResolvConf: w.cfg.ResolvConf,
		Logger:     w.cfg.Logger,
	})
	return err
}

// Definition is that of the network.
func (w *Worker) Definition() netdef.Definition { return w.def }

// Guest is the network that the members share.
func (w *Worker) Guest() *guest.Guest { return w.guest }

// Frames captures what passes the bridge.
func (w *Worker) Frames() *pcap.Tee { return &w.frames }

// Serve serves members and clients until ctx ends, or until nobody has been there for a
// while. It calls ready once nothing more needs privileges, and before it accepts clients:
// ready confines the program.
func (w *Worker) Serve(ctx context.Context, ready func() error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var serving error
	w.tasks.Go(func() {
		defer close(w.served)
		defer cancel()
		serving = w.guest.Serve(ctx)
	})
	w.idle = time.AfterFunc(linger, func() { w.endIfIdle(cancel) })
	w.tasks.Go(w.obey)
	for _, r := range w.restored {
		w.restore(ctx, r)
	}
	w.restored = nil
	if err := ready(); err != nil {
		w.tell(order{Op: opFailed, Text: err.Error()})
		w.end(cancel)
		return err
	}
	if err := w.tell(order{Op: opReady}); err != nil {
		w.end(cancel)
		return err
	}
	w.tasks.Go(func() { w.accept(ctx) })
	<-ctx.Done()
	w.end(cancel)
	return serving
}

// end stops whatever Serve has started.
func (w *Worker) end(cancel func()) {
	cancel()
	w.mu.Lock()
	w.ending = true
	if w.idle != nil {
		w.idle.Stop()
	}
	w.listener.Close()
	w.control.SetReadDeadline(time.Now()) // obey ends; tell still works
	for c := range w.conns {
		c.Close()
	}
	w.mu.Unlock()
	w.tasks.Wait()
}

// obey handles the keeper's messages while members are served.
func (w *Worker) obey() {
	for {
		var o order
		fds, err := receive(w.control, &o)
		if err != nil {
			return
		}
		if o.Op == opAgent {
			w.takeAgent(&o, fds)
			continue
		}
		closeAll(fds)
		switch m, err := w.find(o.ID); {
		case o.Op == opCarried, o.Op == opEnded:
			w.hearOfCarried(nil, o.Op, o.Connections)
		case o.Op == opLeave && err == nil:
			w.tasks.Go(func() { w.leave(m) })
		case o.Op == opDrop:
			w.mu.Lock()
			if gone := w.dropping[o.ID]; gone != nil {
				close(gone)
				delete(w.dropping, o.ID)
			}
			w.mu.Unlock()
		}
	}
}

// busy and unbusy count connections: a network with one is not empty.
func (w *Worker) busy(c *net.UnixConn) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ending || len(w.conns) >= maxConns {
		return false
	}
	w.conns[c] = struct{}{}
	w.idle.Stop()
	return true
}

func (w *Worker) unbusy(c *net.UnixConn) {
	c.Close()
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.conns, c)
	if !w.ending {
		w.idle.Reset(linger)
	}
}

// endIfIdle ends a network that has neither members nor clients.
func (w *Worker) endIfIdle(cancel func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ending || len(w.members) > 0 || len(w.conns) > 0 {
		return
	}
	w.ending = true
	w.tell(order{Op: opEmpty})
	cancel()
}

// Close frees what is left. Serve must have returned.
func (w *Worker) Close() error {
	for _, r := range w.restored {
		r.with.close()
	}
	if w.bypass != nil {
		w.bypass.Close()
	}
	for _, m := range w.members {
		if m.process != nil {
			unix.Close(m.pidfd)
		}
		if m.agent != nil {
			m.agent.Close()
		}
		if m.device != nil {
			m.device.Close()
		}
	}
	if w.listener != nil {
		w.listener.Close()
	}
	var err error
	switch {
	case w.guest != nil:
		err = w.guest.Close() // and the shard
	case w.shard != nil:
		err = w.shard.Close()
	}
	for _, m := range w.members {
		m.record.Close()
	}
	if w.bridge != nil {
		err = errors.Join(err, w.bridge.Close())
	}
	return errors.Join(err, w.control.Close())
}

// on runs f on the shard's thread and waits for it. It returns false if the shard has
// stopped serving.
func (w *Worker) on(f func()) bool {
	done := make(chan struct{})
	if !w.shard.Post(shard.TaskFunc(func() { f(); close(done) })) {
		return false
	}
	select {
	case <-done:
		return true
	case <-w.served:
		return false
	}
}
