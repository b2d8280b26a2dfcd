package portfwd

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/internal/connect"
	"epiphyte/internal/retry"
	"epiphyte/internal/sockio"
)

// bindPatience is how long a busy port is retried: a predecessor that was told to
// end needs some milliseconds, under load up to a second.
const (
	bindPatience = 2 * time.Second
	bindPause    = 20 * time.Millisecond
)

// backlog is the number of clients that may wait to be accepted; the kernel
// cuts it to net.core.somaxconn, which is 4096 since Linux 5.4.
const backlog = 4096

// place is where a socket listens, in the host's or in a guest's network namespace.
type place struct {
	proto    string
	addr     netip.AddrPort
	dual     bool   // :: takes IPv4 clients as well
	device   string // they have to come by; empty: any
	freebind bool   // the address need not exist
	guest    bool   // in the guest's namespace
}

// place is where the rule listens at one of its ports.
func (r *Rule) place(port uint16) place {
	return place{proto: r.Proto, addr: netip.AddrPortFrom(r.Host, port), dual: r.DualStack, device: r.Device, freebind: r.Freebind}
}

// kind is that of the place's socket.
func (p place) kind() socketKind {
	if p.proto == UDP {
		return socketKind{familyOf(p.addr.Addr()), unix.SOCK_DGRAM}
	}
	return socketKind{familyOf(p.addr.Addr()), unix.SOCK_STREAM}
}

// open makes a socket in the host's namespace and takes the place with it. With once a busy
// port is not tried again.
func (p place) open(ctx context.Context, once bool) (int, error) {
	kind := p.kind()
	fd, err := unix.Socket(kind.family, kind.typ|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, bindError(p, err.(unix.Errno))
	}
	if err := p.take(ctx, fd, once); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// take binds a fresh socket and has it listen. The caller closes it after an error.
func (p place) take(ctx context.Context, fd int, once bool) error {
	if errno := p.prepare(fd); errno != 0 {
		return bindError(p, errno)
	}
	var sa sockio.Addr
	sa.Set(p.addr)
	var errno unix.Errno
	try := func() bool {
		if errno = sockio.Bind(fd, &sa); errno == 0 && p.proto != UDP {
			errno = listen(fd)
		}
		return errno == unix.EADDRINUSE && !once
	}
	if ended := retry.While(ctx, bindPatience, bindPause, try); errno != 0 {
		return errors.Join(ended, bindError(p, errno))
	}
	return nil
}

func listen(fd int) unix.Errno {
	if err := unix.Listen(fd, backlog); err != nil {
		return err.(unix.Errno)
	}
	return 0
}

// prepare sets the options that come before bind. Their cost counts: a range may have
// all ports there are.
func (p place) prepare(fd int) unix.Errno {
	var failed error
	set := func(level, name, value int) {
		if failed == nil {
			failed = unix.SetsockoptInt(fd, level, name, value)
		}
	}
	if p.addr.Addr().Is6() {
		only := 1
		if p.dual {
			only = 0
		}
		set(unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, only)
	}
	if p.device != "" && failed == nil {
		failed = unix.SetsockoptString(fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE, p.device)
	}
	if p.freebind {
		set(unix.IPPROTO_IP, unix.IP_FREEBIND, 1) // of either family
	}
	if p.proto == UDP {
		// As much as the kernel grants: a burst is taken batch by batch.
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, sockio.ReceiveBuffer)
		if p.addr.Addr().Is6() {
			set(unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
		}
		if p.addr.Addr().Is4() || p.dual {
			set(unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
		}
	} else {
		// A port whose last connections are in TIME-WAIT is free to listen on.
		set(unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
		connect.Prepare(fd)
	}
	if failed != nil {
		return failed.(unix.Errno)
	}
	return 0
}

// hostHasIPv6 reports whether the kernel makes IPv6 sockets.
func hostHasIPv6() bool {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		unix.Close(fd)
	}
	return err != unix.EAFNOSUPPORT
}

// descriptorsToSpare is the first descriptor that ports which may be left out must not
// take: a quarter of all is kept for their clients.
func descriptorsToSpare() int {
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) != nil {
		return 1 << 20
	}
	return int(min(limit.Cur, 1<<20)) / 4 * 3
}

// portRange is ports from first to last, inclusive; the zero value is none.
type portRange struct{ first, last uint16 }

func (r portRange) contains(port uint16) bool { return r.last > 0 && port >= r.first && port <= r.last }

// ephemeralPorts are those that the host's kernel gives to clients, or its default if
// that cannot be read.
func ephemeralPorts() portRange {
	r := portRange{32768, 60999}
	text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err != nil {
		return r
	}
	if f := strings.Fields(string(text)); len(f) == 2 {
		first, err1 := parsePort(f[0])
		last, err2 := parsePort(f[1])
		if err1 == nil && err2 == nil {
			r = portRange{first, last}
		}
	}
	return r
}
