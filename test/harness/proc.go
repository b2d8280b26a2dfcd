package harness

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// Eventually calls f until it returns nil, and gives its last error when that
// takes longer than d.
func Eventually(d time.Duration, f func() error) error {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	for pause := time.Millisecond; ; pause = min(2*pause, 20*time.Millisecond) {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("after %v: %w", d, err)
		case <-time.After(pause):
		}
	}
}

// Leaks names what the tests have left behind: goroutines, descriptors and
// processes. Everything made from e must have been closed.
func (e *Env) Leaks() error {
	return Eventually(10*time.Second, func() error {
		if err := goleak.Find(
			goleak.IgnoreAnyFunction("epiphyte/test/harness.(*spawner).loop"),
			goleak.IgnoreTopFunction("testing.(*M).Run"),
		); err != nil {
			return err
		}
		reap()
		if kids := descendants(os.Getpid()); len(kids) > 0 {
			return fmt.Errorf("processes left: %v", kids)
		}
		if n := countFDs(os.Getpid()); n > e.fdsBase+fdSlack {
			return fmt.Errorf("%d descriptors open, %d at the start: %v", n, e.fdsBase, listFDs(os.Getpid()))
		}
		return nil
	})
}

// reap collects the dead orphans that came to us, which init would collect.
// Everything else that was started has been waited for by then.
func reap() {
	for {
		if pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); err != nil || pid <= 0 {
			return
		}
	}
}

// fdSlack covers the Go runtime's own: an epoll instance and its eventfd are
// opened by the first socket.
const fdSlack = 4

// UsageOf reads the figures of a process that the runner has started, or of one below it.
func UsageOf(pid int) (Usage, error) {
	fds := listFDs(pid)
	u := Usage{FDs: len(fds)}
	for _, fd := range fds {
		if strings.Contains(fd, "=socket:") {
			u.Sockets++
		}
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return u, err
	}
	for line := range strings.Lines(string(status)) {
		key, rest, _ := strings.Cut(line, ":")
		var n int64
		switch key {
		case "VmRSS":
			_, err = fmt.Sscanf(rest, "%d kB", &n)
			u.RSS = n << 10
		case "Threads":
			_, err = fmt.Sscanf(rest, "%d", &u.Threads)
		}
		if err != nil {
			return u, fmt.Errorf("parse %q: %w", line, err)
		}
	}
	fields, err := statFields(pid)
	if err != nil {
		return u, err
	}
	for _, f := range fields[11:13] { // utime and stime, proc(5), in ticks of 10 ms
		ticks, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return u, err
		}
		u.CPU += time.Duration(ticks) * 10 * time.Millisecond
	}
	return u, nil
}

// SwitchesOf counts how often a process's threads have slept and woken so far.
func SwitchesOf(pid int) (int, error) {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil {
		return 0, err
	}
	total := 0
	for _, task := range tasks {
		status, err := os.ReadFile(task)
		if err != nil {
			continue // a thread that has ended
		}
		for line := range strings.Lines(string(status)) {
			if rest, ok := strings.CutPrefix(line, "voluntary_ctxt_switches:"); ok {
				n, err := strconv.Atoi(strings.TrimSpace(rest))
				if err != nil {
					return 0, err
				}
				total += n
			}
		}
	}
	return total, nil
}

// statFields are those of /proc/pid/stat from the third, the state, on.
func statFields(pid int) ([]string, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, err
	}
	_, rest, _ := strings.Cut(string(b[strings.LastIndexByte(string(b), ')'):]), " ")
	return strings.Fields(rest), nil
}

// descendants names the processes below pid, however deep.
func descendants(pid int) []string {
	parent := map[int]int{}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	for _, e := range entries {
		p, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if fields, err := statFields(p); err == nil {
			parent[p], _ = strconv.Atoi(fields[1])
		}
	}
	var found []string
	for p := range parent {
		for a := parent[p]; a > 1; a = parent[a] {
			if a == pid {
				cmdline, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p))
				found = append(found, fmt.Sprintf("%d %q", p, cmdline))
				break
			}
		}
	}
	return found
}

// Descendants names the processes below the helper.
func (h *Helper) Descendants() []string { return descendants(h.PID) }

func countFDs(pid int) int { return len(listFDs(pid)) }

func listFDs(pid int) []string {
	dir := fmt.Sprintf("/proc/%d/fd/", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return copyFDs(pid)
	}
	var fds []string
	for _, e := range entries {
		target, err := os.Readlink(dir + e.Name())
		if err == nil { // the directory read itself is gone by now
			fds = append(fds, e.Name()+"="+target)
		}
	}
	return fds
}

// copyFDs lists the descriptors of a process that is not dumpable. Its directory of
// descriptors belongs to root then, but whoever may trace it may copy each of them.
func copyFDs(pid int) []string {
	process, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil
	}
	defer unix.Close(process)
	var fds []string
	for fd := range fdSize(pid) {
		ours, err := unix.PidfdGetfd(process, fd, 0)
		if err != nil {
			continue
		}
		if target, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", ours)); err == nil {
			fds = append(fds, fmt.Sprintf("%d=%s", fd, target))
		}
		unix.Close(ours)
	}
	return fds
}

// Socket gives a copy of the helper's socket that is connected to an address: the same
// socket, whose options the caller may read and set, and a descriptor of the caller's.
func (h *Helper) Socket(peer netip.AddrPort) (fd int, err error) {
	process, err := unix.PidfdOpen(h.PID, 0)
	if err != nil {
		return -1, os.NewSyscallError("pidfd_open", err)
	}
	defer unix.Close(process)
	for theirs := range fdSize(h.PID) {
		fd, err := unix.PidfdGetfd(process, theirs, 0)
		if err != nil {
			continue
		}
		if name, err := unix.Getpeername(fd); err == nil && addrPort(name) == peer {
			return fd, nil
		}
		unix.Close(fd)
	}
	return -1, fmt.Errorf("the helper has no socket that is connected to %v", peer)
}

func addrPort(a unix.Sockaddr) netip.AddrPort {
	switch a := a.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr), uint16(a.Port))
	}
	return netip.AddrPort{}
}

// fdSize is above the highest descriptor of a process.
func fdSize(pid int) (size int) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(status), "\nFDSize:")
	_, _ = fmt.Sscan(rest, &size) // zero lists nothing
	return size
}

// ProcessesWith finds the processes that were started with a variable in their
// environment, "NAME=value", whoever their parents are: command lines by process id. The
// dead that wait to be collected are not among them.
func ProcessesWith(variable string) map[int]string {
	found := map[int]string{}
	entries, _ := os.ReadDir("/proc") // none is what a failure finds
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		environ, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid)) // empty of others, and of the dead
		if slices.Contains(strings.Split(string(environ), "\x00"), variable) {
			cmdline, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
			found[pid] = strings.TrimSpace(strings.ReplaceAll(string(cmdline), "\x00", " "))
		}
	}
	return found
}
