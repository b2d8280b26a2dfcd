package tap

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// listenBacklog is the number of clients that may wait to be accepted; the
// kernel cuts it to net.core.somaxconn, which is 4096 since Linux 5.4.
const listenBacklog = 4096

// Listen makes non-blocking TCP sockets that listen in the target's network
// namespace, one for each address, and returns them in that order; -1 stands
// for an IPv6 address in a kernel without IPv6. An address need not be there
// yet, as that of a loopback interface which is down is not. A busy port is
// tried again for a second. Ports below 1024 need CAP_NET_BIND_SERVICE in the
// user namespace that owns the network namespace, which its root has.
//
// Errors are one line that names the address, and wrap the errno; then no
// socket is left.
func Listen(ctx context.Context, t Target, at []netip.AddrPort) (fds []int, err error) {
	if t.FD > 0 || t.PID <= 0 && t.NetNS == "" {
		return nil, errors.New("listen in the guest: no target namespace given")
	}
	j, err := resolve(t)
	if err != nil {
		return nil, fmt.Errorf("listen in the guest: %w", err)
	}
	defer j.close()
	for some := range slices.Chunk(at, maxSockets) {
		got, err := listenIn(ctx, j, some)
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		if fds = append(fds, got...); err != nil {
			for _, fd := range fds {
				if fd >= 0 {
					unix.Close(fd)
				}
			}
			return nil, fmt.Errorf("listen in the guest: %w", err)
		}
	}
	return fds, nil
}

// listenIn has a child make the sockets. What arrives may be the guest's
// invention, like all that the child says.
func listenIn(ctx context.Context, j *join, at []netip.AddrPort) ([]int, error) {
	req := request{Listen: []string{}}
	for _, a := range at {
		req.Listen = append(req.Listen, a.String())
	}
	_, got, err := delegate(ctx, j, req)
	if err != nil {
		return nil, err
	}
	fds := make([]int, len(at))
	for i, a := range at {
		n := slices.IndexFunc(got, func(fd int) bool { return listensAt(fd, a) })
		switch {
		case n >= 0:
			fds[i] = got[n]
			got = slices.Delete(got, n, n+1)
		case a.Addr().Is6():
			fds[i] = -1
		default:
			err = errNoDescriptor
			fds[i] = -1
		}
	}
	closeAll(got)
	return fds, err
}

// listensAt reports whether fd is a socket as Listen makes it.
func listensAt(fd int, at netip.AddrPort) bool {
	if checkTCP(fd, familyOf(at.Addr()), 1) != nil {
		return false
	}
	local, err := unix.Getsockname(fd)
	if err != nil {
		return false
	}
	switch sa := local.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port)) == at
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port)) == at
	}
	return false
}

func familyOf(a netip.Addr) int {
	if a.Is6() {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

// listenAll is the child's part.
func listenAll(at []string) (fds []int, err error) {
	deadline := time.Now().Add(busyFor)
	for _, text := range at {
		a, err := netip.ParseAddrPort(text)
		if err != nil {
			return nil, fail("listen", err, "")
		}
		fd, err := listenAt(a)
		for errors.Is(err, unix.EADDRINUSE) && time.Now().Before(deadline) {
			time.Sleep(busyPause)
			fd, err = listenAt(a)
		}
		if err == unix.EAFNOSUPPORT && a.Addr().Is6() {
			continue
		}
		if err != nil {
			return nil, fail(fmt.Sprintf("listen on tcp %v", a), err, hintListen(err))
		}
		fds = append(fds, fd)
	}
	return fds, nil
}

func listenAt(a netip.AddrPort) (int, error) {
	family := familyOf(a.Addr())
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		return -1, err
	}
	// A port whose last connections are in TIME-WAIT is free to listen on.
	err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	var sa unix.Sockaddr
	if family == unix.AF_INET6 {
		err = errors.Join(err,
			unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1),
			unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_FREEBIND, 1))
		sa = &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
	} else {
		err = errors.Join(err, unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_FREEBIND, 1))
		sa = &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	if err == nil {
		err = unix.Bind(fd, sa)
	}
	if err == nil {
		err = unix.Listen(fd, listenBacklog)
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func hintListen(err error) string {
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return "another program of the guest has the port: stop it, or choose another guest port"
	case errors.Is(err, unix.EACCES):
		return "ports below 1024 are closed to us there: choose another guest port"
	}
	return ""
}
