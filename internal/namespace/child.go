package namespace

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"

	"epiphyte/tap"
)

// childName is argv[0] of the re-executed role.
const childName = "epiphyte-command"

// ownName is the default of Config.Speaker.
const ownName = "epiphyte"

// IsChild reports whether this process was started as the child of Start. main
// must call it before it looks at flags or builds anything.
func IsChild() bool {
	return len(os.Args) > 2 && os.Args[0] == childName || isEntered()
}

// ChildMain is the child's main function. It becomes the command and does not return, unless
// it fails: then it returns the exit status, which is 126 or 127, as in a shell, if the
// command cannot be executed.
func ChildMain() int {
	if isEntered() {
		return execute(os.Args[1:], false, ownName)
	}
	control, err := strconv.Atoi(os.Args[1])
	if err != nil {
		return 2
	}
	unix.CloseOnExec(control)
	buf := make([]byte, maxMessage)
	var cfg Config
	if n, err := read(control, buf); err != nil || json.Unmarshal(buf[:n], &cfg) != nil {
		return 2
	}
	rep := cfg.prepare()
	msg, err := json.Marshal(rep)
	if err != nil || unix.Send(control, msg, unix.MSG_NOSIGNAL) != nil || rep.Fault != "" {
		return 1
	}
	if n, err := read(control, buf); err != nil || string(buf[:n]) != release {
		return 1
	}
	// The parent-death signal belongs to a thread. Only the thread that executes the
	// command survives in it, and that need not be the one that Start set it on.
	runtime.LockOSThread()
	if err := keepNone(); err != nil {
		return 1
	}
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil || !connected(control) {
		return 1
	}
	return execute(os.Args[2:], cfg.Login, cmp.Or(cfg.Speaker, ownName))
}

// connected reports whether the parent lives. Its process id says nothing if the child has a
// PID namespace of its own.
func connected(control int) bool {
	_, _, err := unix.Recvfrom(control, make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
	return err == unix.EAGAIN
}

// prepare does what must be done inside the namespaces.
func (cfg Config) prepare() report {
	var rep report
	if cfg.Hostname != "" {
		if err := unix.Sethostname([]byte(cfg.Hostname)); err != nil {
			return report{Fault: fmt.Sprintf("set host name %q: %v", cfg.Hostname, err)}
		}
	}
	if cfg.Isolated {
		if err := mountProc(); err != nil {
			rep.Warnings = append(rep.Warnings, fmt.Sprintf("cannot mount /proc: %v; ps shows the processes of outside", err))
		}
	}
	if len(cfg.Nameservers) > 0 {
		warning, err := cfg.mountResolvConf("/etc/resolv.conf")
		if err != nil {
			return report{Fault: fmt.Sprintf("%v%s", err, hint(err, readSetting))}
		}
		if warning != "" {
			rep.Warnings = append(rep.Warnings, warning)
		}
	}
	rep.Warnings = append(rep.Warnings, applySettings("/proc/sys/net", cfg.IDs)...)
	for _, name := range cfg.Interfaces {
		if err := tap.Make(name, cfg.Queues); err != nil {
			return report{Fault: err.Error()}
		}
	}
	return rep
}

// read is read(2), restarted when a signal interrupts it.
func read(fd int, buf []byte) (int, error) {
	for {
		n, err := unix.Read(fd, buf)
		if err != unix.EINTR {
			return n, err
		}
	}
}
