package main

import (
	"net"
	"os"
	"os/exec"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"epiphyte/internal/netdef"
)

// probe is the state that attempts work on.
type probe struct {
	path  string // the operand, if there is one
	child *exec.Cmd
}

// attempts by name.
func (p *probe) attempts() map[string]func() error {
	all := map[string]func() error{
		"read":   func() error { _, err := os.ReadFile(p.path); return err },
		"write":  func() error { return p.open(unix.O_WRONLY) },
		"append": func() error { return p.open(unix.O_WRONLY | unix.O_APPEND) },
		"create": func() error { return p.open(unix.O_RDONLY | unix.O_CREAT) },
		"make":   func() error { return p.open(unix.O_RDWR | unix.O_CREAT | unix.O_EXCL) },
		"list":   func() error { _, err := os.ReadDir(p.path); return err },
		"remove": func() error { return unix.Unlink(p.path) },
		"rmdir":  func() error { return unix.Rmdir(p.path) },
		// As the program replaces files.
		"replace": func() error { return netdef.Replace(p.path, []byte("new")) },
		"rename":  func() error { return unix.Rename(p.path, p.path+".new") },
		"link":    func() error { return unix.Link(p.path, p.path+".new") },
		"mkdir":   func() error { return unix.Mkdir(p.path, 0o700) },
		"chmod":   func() error { return unix.Chmod(p.path, 0o600) },

		"exec":            func() error { return unix.Exec("/bin/true", []string{"true"}, nil) },
		"executable":      executable,
		"signal-child":    func() error { return p.child.Process.Signal(unix.SIGTERM) },
		"wait-child":      p.endChild,
		"threads":         threads,
		"rest":            func() error { _, err := os.Stdin.Read(make([]byte, 1)); return err },
		"pair-of-streams": func() error { return pair(unix.SOCK_STREAM) },
		"pair-datagram":   func() error { return pair(unix.SOCK_DGRAM) },
		"interface":       func() error { _, err := net.InterfaceByName("lo"); return err },
		"abstract":        abstract,
		"fork":            func() error { return fork(0) },
		"fork-userns":     func() error { return fork(unix.CLONE_NEWUSER) },
		"open-write-null": func() error { _, err := unix.Open("/dev/null", unix.O_RDWR, 0); return err },
	}
	p.signals(all)
	sockets(all)
	calls(all)
	return all
}

func (p *probe) open(flags int) error {
	fd, err := unix.Open(p.path, flags, 0o600)
	unix.Close(fd)
	return err
}

// signals to others. The parent is alive as long as the attempt.
func (p *probe) signals(all map[string]func() error) {
	parent := os.Getppid()
	all["kill"] = func() error { return unix.Kill(parent, 0) }
	all["kill-all"] = func() error { return unix.Kill(-1, 0) }
	all["tgkill"] = func() error { return unix.Tgkill(parent, parent, 0) }
	all["tkill"] = func() error { return call(unix.SYS_TKILL, uintptr(parent)) }
	all["sigqueue"] = func() error { return call(unix.SYS_RT_SIGQUEUEINFO, uintptr(parent)) }
	all["pidfd"] = func() error { _, err := unix.PidfdOpen(parent, 0); return err }
	all["owner"] = func() error {
		_, err := unix.FcntlInt(0, unix.F_SETOWN, parent)
		return err
	}
}

// sockets of families that the program does not use.
func sockets(all map[string]func() error) {
	for name, s := range map[string][3]int{
		"tcp":              {unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_TCP},
		"udp6":             {unix.AF_INET6, unix.SOCK_DGRAM, 0},
		"socket-raw":       {unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP},
		"socket-raw-any":   {unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW},
		"socket-sctp":      {unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_SCTP},
		"socket-unix":      {unix.AF_UNIX, unix.SOCK_STREAM, 0},
		"socket-netlink":   {unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE},
		"socket-netfilter": {unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_NETFILTER},
		"socket-packet":    {unix.AF_PACKET, unix.SOCK_RAW, 0},
		"socket-vsock":     {unix.AF_VSOCK, unix.SOCK_STREAM, 0},
		"socket-alg":       {unix.AF_ALG, unix.SOCK_SEQPACKET, 0},
		"socket-bluetooth": {unix.AF_BLUETOOTH, unix.SOCK_RAW, 0},
	} {
		all[name] = func() error {
			_, err := unix.Socket(s[0], s[1]|unix.SOCK_CLOEXEC, s[2])
			return err
		}
	}
}

// calls by number, without arguments that could do harm if they were permitted.
func calls(all map[string]func() error) {
	for name, c := range map[string][]uintptr{
		"ptrace":       {unix.SYS_PTRACE, unix.PTRACE_TRACEME},
		"vm-readv":     {unix.SYS_PROCESS_VM_READV, 1},
		"pidfd-getfd":  {unix.SYS_PIDFD_GETFD, 0},
		"mount":        {unix.SYS_MOUNT},
		"umount":       {unix.SYS_UMOUNT2},
		"move-mount":   {unix.SYS_MOVE_MOUNT},
		"fsopen":       {unix.SYS_FSOPEN},
		"chroot":       {unix.SYS_CHROOT},
		"pivot-root":   {unix.SYS_PIVOT_ROOT},
		"setns":        {unix.SYS_SETNS, 0, unix.CLONE_NEWNET},
		"unshare":      {unix.SYS_UNSHARE, unix.CLONE_NEWUSER},
		"bpf":          {unix.SYS_BPF},
		"perf":         {unix.SYS_PERF_EVENT_OPEN},
		"userfaultfd":  {unix.SYS_USERFAULTFD},
		"io-uring":     {unix.SYS_IO_URING_SETUP, 1},
		"keyctl":       {unix.SYS_KEYCTL},
		"add-key":      {unix.SYS_ADD_KEY},
		"handle":       {unix.SYS_OPEN_BY_HANDLE_AT},
		"module":       {unix.SYS_INIT_MODULE},
		"clone3":       {unix.SYS_CLONE3},
		"openat2":      {unix.SYS_OPENAT2},
		"setuid":       {unix.SYS_SETUID, 0},
		"capset":       {unix.SYS_CAPSET},
		"dumpable":     {unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 1},
		"inject-input": {unix.SYS_IOCTL, 0, unix.TIOCSTI},
		"memfd":        {unix.SYS_MEMFD_CREATE},
	} {
		all[name] = func() error { return call(c[0], c[1:]...) }
	}
}

func call(number uintptr, args ...uintptr) error {
	var a [3]uintptr
	copy(a[:], args)
	if _, _, errno := unix.RawSyscall(number, a[0], a[1], a[2]); errno != 0 {
		return errno
	}
	return nil
}

// fork makes a child that ends at once: of the Go runtime's threads it has one only.
func fork(flags uintptr) error {
	pid, _, errno := unix.RawSyscall(unix.SYS_CLONE, uintptr(unix.SIGCHLD)|flags, 0, 0)
	if errno != 0 {
		return errno
	}
	if pid == 0 {
		unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
	}
	return nil
}

// executable makes executable memory, which an intruder's own code would need.
func executable() error {
	b, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return err
	}
	return unix.Mprotect(b, unix.PROT_READ|unix.PROT_EXEC)
}

func pair(kind int) error {
	_, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	return err
}

// abstract connects to a socket without a file.
func abstract() error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	return unix.Connect(fd, &unix.SockaddrUnix{Name: "@epiphyte-probe"})
}

func (p *probe) endChild() error {
	if err := p.child.Process.Kill(); err != nil {
		return err
	}
	_ = p.child.Wait() // it was killed
	return nil
}

// threads does what every Go program does: it starts and ends threads, grows a stack and
// collects the heap.
func threads() error {
	done := make(chan struct{})
	for range 16 {
		go func() {
			runtime.LockOSThread() // and ends with the goroutine
			var b [1 << 16]byte
			_ = make([]byte, 1<<22)
			runtime.KeepAlive(unsafe.Pointer(&b))
			runtime.GC()
			done <- struct{}{}
		}()
	}
	for range 16 {
		<-done
	}
	return nil
}
