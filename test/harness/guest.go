package harness

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Guest is a namespace to be served: a process in its own user, network and
// mount namespaces, as `unshare --map-root-user --net` makes it, and the means
// to make sockets and run commands in it.
type Guest struct {
	*NetNS
	PID int // of the process, for a helper's command line

	cmd  *exec.Cmd // nil: the process is another's
	hold io.Closer // the pipe whose end ends the process
}

// GuestOf is the guest that a process is in already, which a helper or another program
// has made. Close lets go of it, and ends what was started by Run.
func (e *Env) GuestOf(pid int) (*Guest, error) {
	ns, err := e.NSOf(pid)
	if err != nil {
		return nil, err
	}
	return &Guest{NetNS: ns, PID: pid}, nil
}

// NewGuest makes an empty namespace: no interface but a lo that is down.
func (e *Env) NewGuest() (*Guest, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	started, report, err := os.Pipe()
	if err != nil {
		w.Close()
		return nil, err
	}
	defer started.Close()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), envStage+"=pause")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = r, report, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNET | unix.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	err = e.spawn.start(cmd)
	report.Close()
	if err != nil {
		w.Close()
		return nil, fmt.Errorf("make guest: %w", err)
	}
	g := &Guest{PID: cmd.Process.Pid, cmd: cmd, hold: w}
	// Its /proc is ours to read only once it has executed.
	if _, err := io.ReadFull(started, make([]byte, 1)); err != nil {
		g.Close()
		return nil, fmt.Errorf("make guest: %w", err)
	}
	if g.NetNS, err = openNS(fmt.Sprintf("/proc/%d/ns/net", g.PID)); err != nil {
		g.Close()
		return nil, err
	}
	if err := g.Do(func() error {
		return steps(
			sysctl("net/ipv6/conf/default/accept_dad", "0"),
			sysctl("net/ipv4/tcp_congestion_control", "reno"),
			sysctl("net/ipv4/ping_group_range", fmt.Sprintf("%d %d", runnerID, runnerID)))
	}); err != nil {
		g.Close()
		return nil, err
	}
	return g, nil
}

// pause is the stage of a guest's process: it says that it has started and
// lives until its standard input ends.
func pause() (int, error) {
	if _, err := os.Stdout.Write([]byte{1}); err != nil {
		return 1, err
	}
	_, err := io.Copy(io.Discard, os.Stdin)
	return 0, err
}

// Close ends the guest. Sockets made in it keep its network namespace alive
// until they are closed too.
func (g *Guest) Close() error {
	var err error
	if g.NetNS != nil {
		err = g.NetNS.Close()
	}
	if g.cmd == nil {
		return err
	}
	g.hold.Close()
	if waitErr := g.cmd.Wait(); err == nil {
		err = waitErr
	}
	return err
}

// Command prepares a command to be started with [Guest.Run] or [NetNS.Start].
func (g *Guest) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// Run runs a command in the guest's network namespace and returns what it
// wrote to both outputs.
func (g *Guest) Run(ctx context.Context, name string, args ...string) (string, error) {
	var out lockedBuffer
	cmd := g.Command(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := g.Start(cmd); err != nil {
		return "", err
	}
	err := cmd.Wait()
	return out.String(), err
}

// Links names the guest's interfaces other than lo.
func (g *Guest) Links() (names []string, err error) {
	err = g.Do(func() error {
		links, err := netlink.LinkList()
		for _, l := range links {
			if l.Attrs().Name != "lo" {
				names = append(names, l.Attrs().Name)
			}
		}
		return err
	})
	return names, err
}

// Address gives a global address of the link whose neighbours can be reached:
// for IPv6 that is one that duplicate address detection has passed, with a
// default route beside it.
func (g *Guest) Address(link string, family int) (addr netip.Addr, err error) {
	err = g.Do(func() error {
		l, err := netlink.LinkByName(link)
		if err != nil {
			return fmt.Errorf("find %s: %w", link, err)
		}
		routes, err := netlink.RouteList(l, family)
		if err != nil {
			return err
		}
		addrs, err := netlink.AddrList(l, family)
		if err != nil {
			return err
		}
		for _, a := range addrs {
			if a.Scope == unix.RT_SCOPE_UNIVERSE && a.Flags&unix.IFA_F_TENTATIVE == 0 && hasDefault(routes) {
				addr, _ = netip.AddrFromSlice(a.IP)
				addr = addr.Unmap()
				return nil
			}
		}
		return fmt.Errorf("%s has no usable address of family %d", link, family)
	})
	return addr, err
}

func hasDefault(routes []netlink.Route) bool {
	for _, r := range routes {
		if r.Gw == nil {
			continue
		}
		if r.Dst == nil {
			return true
		}
		if ones, _ := r.Dst.Mask.Size(); ones == 0 {
			return true
		}
	}
	return false
}

// Hardware gives the link's index and Ethernet address.
func (g *Guest) Hardware(link string) (index int, mac net.HardwareAddr, err error) {
	err = g.Do(func() error {
		l, err := netlink.LinkByName(link)
		if err != nil {
			return fmt.Errorf("find %s: %w", link, err)
		}
		index, mac = l.Attrs().Index, l.Attrs().HardwareAddr
		return nil
	})
	return index, mac, err
}
