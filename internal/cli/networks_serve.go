package cli

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"epiphyte/internal/api"
	"epiphyte/internal/netdef"
	"epiphyte/internal/network"
	"epiphyte/internal/sandbox"

	"golang.org/x/sys/unix"
)

// resolvConf lists the host's nameservers, unless another file is named.
const resolvConf = "/etc/resolv.conf"

// serve is the network's keeper. Its stdout is for the member that has started it.
func (n *Networks) serve(ctx context.Context, e *env) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	closeInherited()
	<-reserveThreads(0)
	name := n.operands[0]
	log := slog.New(slog.NewTextHandler(e.stderr, nil)).With("network", name)
	setProcessName(log)
	answered := false
	answer := func(text string) {
		if !answered {
			io.WriteString(e.stdout, text)
			answered = true
			if f, ok := e.stdout.(*os.File); ok {
				f.Close() // the member reads to the end
			}
		}
	}
	err := network.Run(ctx, network.RunConfig{
		Paths: e.paths, Name: name, Stay: n.stay, Logger: log,
		Ready: func() {
			answer(network.ReadyText)
			notifyManager(log)
		},
	})
	switch {
	case err == network.ErrRunning && !n.stay:
		answer(network.ReadyText)
		return nil
	case err != nil:
		answer(oneLine(err.Error()) + "\n")
	}
	return err
}

// closeInherited closes inherited descriptors other than the standard streams: the network
// outlives the member that has started it, and a reader that waits for the end of one of the
// member's pipes must not wait for the network. The runtime's own descriptors, which have no
// file, stay open.
func closeInherited() {
	const list = "/proc/self/fd"
	entries, err := os.ReadDir(list)
	if err != nil {
		return
	}
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil || fd <= 2 {
			continue
		}
		if to, err := os.Readlink(filepath.Join(list, e.Name())); err == nil && !strings.HasPrefix(to, "anon_inode:") {
			unix.Close(fd)
		}
	}
}

// setProcessName has ps(1) and top(1) show the program's name, not "exe": networks execute
// the program as /proc/self/exe, which works whatever became of its file.
func setProcessName(log *slog.Logger) {
	if err := os.WriteFile("/proc/self/comm", []byte("epiphyte"), 0); err != nil {
		log.Warn("cannot set the process's name", "error", err)
	}
}

// notifyManager tells a waiting service manager that clients are served (sd_notify(3)).
func notifyManager(log *slog.Logger) {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return
	}
	c, err := net.Dial("unixgram", path) // "@" means the abstract namespace for both
	if err == nil {
		_, err = io.WriteString(c, "READY=1")
		c.Close()
	}
	if err != nil {
		log.Warn("cannot tell the service manager", "error", err)
	}
}

// NetworkMain is the main function of a network's worker. It returns the exit code.
func NetworkMain(ctx context.Context, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	log := slog.New(slog.NewTextHandler(stderr, nil))
	limitMemory()
	threads := reserveThreads(1)
	setProcessName(log)
	paths, err := netdef.DefaultPaths()
	if err != nil {
		log.Error("the network's process ends", "error", err)
		return 1
	}
	w, err := network.OpenWorker(network.WorkerConfig{Paths: paths, ResolvConf: resolvConf, Version: Version, Logger: log})
	if err != nil {
		return 1 // the keeper has been told
	}
	defer w.Close()
	log = log.With("network", w.Definition().Name)
	socket := paths.API(w.Definition().Name)
	var server *api.Server
	err = w.Serve(ctx, func() error {
		var err error
		server, err = listenForNetwork(ctx, socket, w, log)
		if err != nil {
			return err
		}
		return giveUp(threads, func() error {
			return sandbox.Confine(sandbox.Config{
				Read:       []string{resolvConf},
				ReadIn:     []string{paths.Runtime},
				Remove:     []string{socket},
				Interfaces: true,
				Devices:    true,
				Logger:     log,
			})
		})
	})
	if server != nil {
		server.Close()
	}
	if err != nil {
		log.Error("the network's process ends", "error", err)
		return 1
	}
	return 0
}

// listenForNetwork opens the control interface of a network: ports, flows, statistics.
func listenForNetwork(ctx context.Context, path string, w *network.Worker, log *slog.Logger) (*api.Server, error) {
	frames := &frames{Tee: w.Frames(), name: w.Definition().Name}
	s, err := api.ListenHTTP(ctx, path, api.Config{
		Ports:    w.Ports(),
		Flows:    func() []api.Flow { return flows(w.Guest()) },
		Stats:    func() []api.Metric { return append(metrics(w.Guest()), frames.metrics()...) },
		Why:      func(member, flow string) (*api.Why, error) { return whyOfMember(w, member, flow) },
		Policies: memberPolicies{w},
		Capture:  frames.stream,
		Logger:   log,
	})
	if err != nil {
		return nil, fmt.Errorf("open control socket: %w", err)
	}
	go s.Serve(ctx)
	return s, nil
}

// programPath is the path of this program's file, for another process to execute.
func programPath() (string, error) {
	path, err := os.Executable()
	if err == nil {
		path, err = filepath.EvalSymlinks(path)
	}
	if err != nil {
		return "", fmt.Errorf("find this program's file: %w", err)
	}
	return path, nil
}
