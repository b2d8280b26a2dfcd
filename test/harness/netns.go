package harness

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// NetNS is a network namespace that the runner may enter: its own, one it
// made, or a guest's. Its methods may be called from several goroutines.
type NetNS struct {
	f *os.File

	mu    sync.Mutex
	spawn *spawner // started by the first Start; guarded by mu
}

// currentNS opens the namespace of the calling thread.
func currentNS() (*NetNS, error) { return openNS("/proc/thread-self/ns/net") }

func openNS(path string) (*NetNS, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	return &NetNS{f: f}, nil
}

// NewNS makes an empty network namespace that stands for a host: its lo is down.
func (e *Env) NewNS() (*NetNS, error) { return newNS() }

// NSOf opens the network namespace of a process that the runner has started, or
// whose user namespace it has made.
func (e *Env) NSOf(pid int) (*NetNS, error) { return openNS(fmt.Sprintf("/proc/%d/ns/net", pid)) }

// newNS makes a network namespace owned by the runner's user namespace.
func newNS() (ns *NetNS, err error) {
	onThread(func() {
		if err = unix.Unshare(unix.CLONE_NEWNET); err != nil {
			err = fmt.Errorf("make network namespace: %w", err)
			return
		}
		ns, err = currentNS()
	})
	return ns, err
}

// Close lets go of the namespace and ends what was started in it.
func (n *NetNS) Close() error {
	n.mu.Lock()
	if n.spawn != nil {
		n.spawn.close()
	}
	n.mu.Unlock()
	return n.f.Close()
}

// Do calls f on a thread that is in the namespace, and throws the thread away.
// Sockets that f makes stay in the namespace wherever they are used.
func (n *NetNS) Do(f func() error) error {
	var err error
	onThread(func() {
		if err = n.enter(); err == nil {
			err = f()
		}
	})
	return err
}

func (n *NetNS) enter() error {
	if err := unix.Setns(int(n.f.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("join network namespace: %w", err)
	}
	return nil
}

// onThread calls f on a thread of its own, which then ends.
func onThread(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the runtime ends the thread
		f()
	}()
	<-done
}

// Listen is net.Listen in the namespace; addr must be a literal.
func (n *NetNS) Listen(network, addr string) (l net.Listener, err error) {
	err = n.Do(func() (err error) {
		l, err = net.Listen(network, addr)
		return err
	})
	return l, err
}

// ListenPacket is net.ListenPacket in the namespace; addr must be a literal.
func (n *NetNS) ListenPacket(network, addr string) (c net.PacketConn, err error) {
	err = n.Do(func() (err error) {
		c, err = net.ListenPacket(network, addr)
		return err
	})
	return c, err
}

// Dial connects from the namespace; addr must be a literal. It holds a thread
// until the connection is made, so thousands at once want [NetNS.Socket].
func (n *NetNS) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	return n.DialWith(ctx, net.Dialer{}, network, addr)
}

// DialWith is Dial with a dialer of the caller's, for a local address or
// socket options.
func (n *NetNS) DialWith(ctx context.Context, d net.Dialer, network, addr string) (c net.Conn, err error) {
	// "[::]" stands for two addresses, and two are dialled by goroutines of
	// their own, whose threads are elsewhere.
	d.FallbackDelay = -1
	err = n.Do(func() (err error) {
		c, err = d.DialContext(ctx, network, addr)
		return err
	})
	return c, err
}

// Socket makes a non-blocking, close-on-exec socket in the namespace.
func (n *NetNS) Socket(domain, typ, proto int) (fd int, err error) {
	err = n.Do(func() (err error) {
		fd, err = unix.Socket(domain, typ|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, proto)
		return os.NewSyscallError("socket", err)
	})
	return fd, err
}

// Sysctl writes a value below /proc/sys as the namespace sees it.
func (n *NetNS) Sysctl(name, value string) error {
	return n.Do(func() error { return os.WriteFile("/proc/sys/"+name, []byte(value), 0o644) })
}

// Start starts cmd in the namespace, as the runner's uid without capabilities
// of the runner's own user namespace. In a guest the kernel still grants it
// every capability, for the uid owns the guest.
func (n *NetNS) Start(cmd *exec.Cmd) error {
	n.mu.Lock()
	if n.spawn == nil {
		n.spawn = newSpawner(n)
	}
	s := n.spawn
	n.mu.Unlock()
	return s.start(cmd)
}

// ChangeAddress adds an address to an interface of a namespace, or takes it away: change
// is netlink.AddrAdd or AddrDel. An IPv6 address is there at once.
func ChangeAddress(ns *NetNS, link, cidr string, change func(netlink.Link, *netlink.Addr) error) error {
	return ns.Do(func() error {
		l, err := netlink.LinkByName(link)
		if err != nil {
			return err
		}
		a, err := netlink.ParseAddr(cidr)
		if err != nil {
			return err
		}
		a.Flags = unix.IFA_F_NODAD
		if err := change(l, a); err != nil {
			return fmt.Errorf("change address %s: %w", cidr, err)
		}
		return nil
	})
}
