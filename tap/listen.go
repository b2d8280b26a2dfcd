package tap

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

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
			closeAll(fds)
			return nil, fmt.Errorf("listen in the guest: %w", err)
		}
	}
	return fds, nil
}

// listenIn has a child make the sockets, all or none.
func listenIn(ctx context.Context, j *join, at []netip.AddrPort) (fds []int, err error) {
	requests := make([]request, len(at))
	for i, a := range at {
		requests[i] = openListener(a)
	}
	err = whileBusy(ctx, unix.EADDRINUSE, func() error {
		got, err := ask(j, requests...)
		if err != nil {
			return err
		}
		if fds, err = listeners(got, at); err != nil {
			closeResults(got)
		}
		return err
	})
	return fds, err
}

// listeners are the sockets that a child made for the addresses. How it came to
// them does not matter, as long as they listen there.
func listeners(got []result, at []netip.AddrPort) ([]int, error) {
	fds := make([]int, len(at))
	for i, a := range at {
		fds[i] = got[i].fd
		switch err := got[i].err; {
		case err == unix.EAFNOSUPPORT && a.Addr().Is6():
			continue
		case err != nil:
			return nil, fail(fmt.Sprintf("listen on tcp %v", a), err, hintListen(err))
		}
		if err := checkTCP(fds[i], unix.BPF_TCP_LISTEN, a); err != nil {
			return nil, fmt.Errorf("receive from child: what came does not listen on tcp %v: %w", a, err)
		}
	}
	return fds, nil
}

// openListener is how a child makes a socket that listens.
func openListener(a netip.AddrPort) request {
	// A port whose last connections are in TIME-WAIT is free to listen on.
	l := &listening{options: []socketOption{{unix.SOL_SOCKET, unix.SO_REUSEADDR, 1}}, backlog: listenBacklog}
	domain := unix.AF_INET
	if a.Addr().Is6() {
		domain = unix.AF_INET6
		l.options = append(l.options,
			socketOption{unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1},
			socketOption{unix.IPPROTO_IPV6, unix.IPV6_FREEBIND, 1})
	} else {
		l.options = append(l.options, socketOption{unix.IPPROTO_IP, unix.IP_FREEBIND, 1})
	}
	l.addr.Set(a)
	l.addr.Name(&l.name)
	r := openSocket(domain, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, unix.IPPROTO_TCP)
	r.listen = l
	return r
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
