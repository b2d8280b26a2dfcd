package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// launch is how helpers of a kind are started.
type launch struct {
	hostAddr string // the guest's name for the host's loopback
	resolver string // the guest's name for the host's resolver
	// start starts a helper that dies with the runner, ready for traffic.
	start func(context.Context, *scene) (*helper, error)
	// startUp starts a helper in the way in which it can say itself that it is
	// ready, and measures the time to that.
	startUp func(context.Context, *scene) (*helper, error)
}

// tapName is what the guest's interface is called.
const tapName = "tap0"

// helper is a running helper process.
type helper struct {
	pid   int
	ready time.Duration // from before fork to ready
	cmd   *exec.Cmd     // nil for a daemon, which is a child by adoption
	log   *os.File
	more  []*helper // the peer's other processes, which end with it
	clear func()    // called once it has ended; nil: nothing to clear
}

// newHelper prepares the process. Its output goes to a file: a pipe would be
// held open by daemons.
func newHelper(path string, args ...string) (*helper, error) {
	log, err := os.CreateTemp("", "helper-*.log")
	if err != nil {
		return nil, err
	}
	os.Remove(log.Name())
	h := &helper{log: log, cmd: exec.Command(path, args...)}
	h.cmd.Stdout, h.cmd.Stderr = log, log
	return h, nil
}

// newPasta prepares a process of pasta, or of ours by its name.
func newPasta(s *scene, args ...string) (*helper, error) {
	h, err := newHelper(s.peer.Path, pastaArgs(s, args...)...)
	if err == nil && s.peer.Name != "" {
		h.cmd.Args[0] = s.peer.Name
	}
	return h, err
}

// startSlirp is for the command line of slirp4netns, and so ours: ready is a
// byte on a descriptor.
func startSlirp(ctx context.Context, s *scene) (*helper, error) {
	args := slices.Concat([]string{"-c", "-r", "3", "--mtu=" + strconv.Itoa(s.mtu)}, s.publishArgs(), s.peer.Args,
		[]string{strconv.Itoa(s.guest.PID), tapName})
	h, err := newHelper(s.peer.Path, args...)
	if err != nil {
		return nil, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	h.cmd.ExtraFiles = []*os.File{w}
	begin := time.Now()
	err = s.host.Start(h.cmd)
	w.Close()
	if err != nil {
		h.log.Close()
		return nil, fmt.Errorf("start %s: %w", s.peer.Label, err)
	}
	h.pid = h.cmd.Process.Pid
	stop := context.AfterFunc(ctx, func() { r.SetReadDeadline(time.Now()) })
	defer stop()
	_, err = io.ReadFull(r, make([]byte, 1))
	h.ready = time.Since(begin)
	if err != nil {
		defer h.kill()
		return nil, fmt.Errorf("%s is not ready: %w: %s", s.peer.Label, err, h.output())
	}
	if err := s.addForward(ctx); err != nil {
		defer h.kill()
		return nil, fmt.Errorf("%s publishes no port: %w: %s", s.peer.Label, err, h.output())
	}
	return h, nil
}

// pastaArgs keep it from watching and forwarding ports, which nobody here asks
// for and which costs it time.
func pastaArgs(s *scene, more ...string) []string {
	return slices.Concat([]string{"--config-net", "-4", "-q", "-I", tapName, "-m", strconv.Itoa(s.mtu),
		"--dns-forward", pastaResolver, "-t", s.pastaForward("tcp"), "-u", s.pastaForward("udp"), "-T", "none", "-U", "none"}, more, s.peer.Args, []string{strconv.Itoa(s.guest.PID)})
}

// startPasta keeps it in the foreground and watches the guest for its address:
// the daemon that says when it is ready would outlive a runner that is killed.
func startPasta(ctx context.Context, s *scene) (*helper, error) {
	h, err := newPasta(s, "-f")
	if err != nil {
		return nil, err
	}
	if err := s.host.Start(h.cmd); err != nil {
		h.log.Close()
		return nil, fmt.Errorf("start %s: %w", s.peer.Label, err)
	}
	h.pid = h.cmd.Process.Pid
	for {
		_, err := s.guest.Address(tapName, unix.AF_INET)
		if err == nil {
			err = s.publishes()
		}
		if err == nil {
			return h, nil
		}
		select {
		case <-ctx.Done():
			defer h.kill()
			return nil, fmt.Errorf("%s is not ready: %w: %w: %s", s.peer.Label, ctx.Err(), err, h.output())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// startPastaDaemon waits for the end of the parent, which leaves a ready daemon.
func startPastaDaemon(ctx context.Context, s *scene) (*helper, error) {
	dir, err := os.MkdirTemp("", "pasta-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	pidFile := filepath.Join(dir, "pid")
	h, err := newPasta(s, "-P", pidFile)
	if err != nil {
		return nil, err
	}
	begin := time.Now()
	if err := s.host.Start(h.cmd); err != nil {
		h.log.Close()
		return nil, fmt.Errorf("start %s: %w", s.peer.Label, err)
	}
	stop := context.AfterFunc(ctx, func() { h.cmd.Process.Kill() })
	err = h.cmd.Wait()
	h.ready = time.Since(begin)
	stop()
	if err == nil {
		var text []byte
		if text, err = os.ReadFile(pidFile); err == nil {
			h.pid, err = strconv.Atoi(strings.TrimSpace(string(text)))
		}
	}
	if err != nil {
		defer h.log.Close()
		return nil, fmt.Errorf("%s is not ready: %w: %s", s.peer.Label, err, h.output())
	}
	h.cmd = nil
	return h, nil
}

// kill ends the helper and waits for its end.
func (h *helper) kill() {
	for _, other := range h.more {
		other.kill()
	}
	switch {
	case h.pid == 0: // it was never started
	case h.cmd != nil:
		_ = h.cmd.Process.Kill() // it may have ended already
		_ = h.cmd.Wait()
	default:
		if err := unix.Kill(h.pid, unix.SIGKILL); err != nil {
			break
		}
		for {
			if _, err := unix.Wait4(h.pid, nil, 0, nil); err != unix.EINTR {
				break
			}
		}
	}
	h.log.Close()
	if h.clear != nil {
		h.clear()
	}
}

// alive gives an error with the helper's last words when it has ended.
func (h *helper) alive() error {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", h.pid))
	if err == nil && !strings.HasPrefix(string(stat[strings.LastIndexByte(string(stat), ')')+1:]), " Z") {
		return nil
	}
	return fmt.Errorf("helper has ended: %s", h.output())
}

// output is the end of what the helper has written.
func (h *helper) output() string {
	const most = 600
	b := make([]byte, most)
	size, err := h.log.Seek(0, io.SeekEnd)
	if err != nil {
		return ""
	}
	n, _ := h.log.ReadAt(b, max(0, size-most))
	return strings.TrimSpace(string(b[:n]))
}

// tree is the helper's processes and their living descendants.
func (h *helper) tree() []int {
	pids := []int{h.pid}
	for _, other := range h.more {
		pids = append(pids, other.pid)
	}
	for i := 0; i < len(pids); i++ {
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pids[i]))
		if err != nil {
			continue
		}
		for _, task := range tasks {
			text, err := os.ReadFile(task)
			if err != nil {
				continue // a thread that has ended
			}
			for _, f := range strings.Fields(string(text)) {
				if pid, err := strconv.Atoi(f); err == nil {
					pids = append(pids, pid)
				}
			}
		}
	}
	return pids
}

// pin keeps what the helper runs, and will run, to the first n processors; 0: to
// all. There may be no helper.
func (h *helper) pin(n int) error {
	if h == nil || n == 0 {
		return nil
	}
	return pin(h.tree(), n)
}

// pin keeps processes to the first n processors.
func pin(pids []int, n int) error {
	var all, some unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		return fmt.Errorf("read processors: %w", err)
	}
	for cpu := 0; some.Count() < min(n, all.Count()); cpu++ {
		if all.IsSet(cpu) {
			some.Set(cpu)
		}
	}
	for _, pid := range pids {
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
		if err != nil {
			return err
		}
		for _, task := range tasks {
			tid, err := strconv.Atoi(filepath.Base(task))
			if err != nil {
				return err
			}
			if err := unix.SchedSetaffinity(tid, &some); err != nil && err != unix.ESRCH {
				return fmt.Errorf("keep process %d to %d processors: %w", pid, n, err)
			}
		}
	}
	return nil
}

// cpu is the time that the helper has spent on a processor so far.
func (h *helper) cpu() (time.Duration, error) {
	var sum time.Duration
	for _, pid := range h.tree() {
		used, err := processCPU(pid)
		if err != nil {
			if pid == h.pid {
				return 0, fmt.Errorf("read CPU clock of helper: %w", err)
			}
			continue // a child that has ended
		}
		sum += used
	}
	return sum, nil
}

// cpuWithEnded is the same with the time of children that have ended and been waited for, in
// steps of 10 ms: a server may have a process for each connection.
func (h *helper) cpuWithEnded() (time.Duration, error) {
	sum, err := h.cpu()
	for _, pid := range h.tree() {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue // a child that has ended
		}
		// cutime and cstime of proc_pid_stat(5), the 14th and 15th after the name.
		fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
		for _, ticks := range fields[13:15] {
			n, err := strconv.ParseInt(ticks, 10, 64)
			if err != nil {
				return 0, fmt.Errorf("read CPU time of children: %w", err)
			}
			sum += time.Duration(n) * 10 * time.Millisecond
		}
	}
	return sum, err
}

// processCPU is the time that a process has spent on a processor so far.
func processCPU(pid int) (time.Duration, error) {
	// Its CPU clock, as clock_getcpuclockid(3) names it.
	clock := int32(^pid<<3 | 2)
	var ts unix.Timespec
	err := unix.ClockGettime(clock, &ts)
	return time.Duration(ts.Nano()), err
}

// memory of the helper in bytes: resident, and the same with each shared page
// divided by the number of processes that map it.
func (h *helper) memory() (rss, pss int64, err error) {
	for _, pid := range h.tree() {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			return 0, 0, fmt.Errorf("read memory of helper: %w", err)
		}
		for line := range strings.Lines(string(text)) {
			var kb int64
			if _, err := fmt.Sscanf(line, "Rss: %d kB", &kb); err == nil {
				rss += kb << 10
			}
			if _, err := fmt.Sscanf(line, "Pss: %d kB", &kb); err == nil {
				pss += kb << 10
			}
		}
	}
	return rss, pss, nil
}

// descriptorLimit lets helpers hold as many connections as a row opens; one
// peer exits when it runs out.
func descriptorLimit() error {
	var lim syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &lim); err != nil {
		return err
	}
	lim.Cur = lim.Max
	// Setting it ourselves keeps the runtime from restoring the lower limit in
	// what we execute.
	return syscall.Setrlimit(syscall.RLIMIT_NOFILE, &lim)
}
