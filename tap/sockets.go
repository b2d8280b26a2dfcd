package tap

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// SocketKind is what socket(2) is given, and how many sockets are wanted.
type SocketKind struct {
	Family, Type, Protocol int
	Count                  int
}

// Sockets makes sockets in the target's network namespace, non-blocking and
// close-on-exec, and returns them in order of the kinds; there are none of a family that
// the kernel lacks, and unix.EAFNOSUPPORT if it is the only kind. They stay in that
// namespace, whichever process binds them. Ports below 1024 need CAP_NET_BIND_SERVICE in
// the user namespace that owns it, which its owner has.
//
// Errors are one line and wrap the errno; then no socket is left.
func Sockets(ctx context.Context, t Target, kinds ...SocketKind) (fds [][]int, err error) {
	j, err := resolve(t)
	if err != nil {
		return nil, fmt.Errorf("open sockets in the guest: %w", err)
	}
	defer j.close()
	var requests []request
	for _, k := range kinds {
		for range k.Count {
			requests = append(requests, openSocket(k.Family, k.Type|unix.SOCK_NONBLOCK, k.Protocol))
		}
	}
	got, err := askAll(ctx, j, requests)
	if err == nil {
		fds, err = sorted(kinds, got)
	}
	if err != nil {
		closeResults(got)
		return nil, fmt.Errorf("open sockets in the guest: %w", err)
	}
	return fds, nil
}

// askAll has children carry out the requests, each as many as one message takes, and
// returns the results so far even with an error.
func askAll(ctx context.Context, j *join, requests []request) (all []result, err error) {
	for some := range slices.Chunk(requests, maxRequests) {
		got, err := ask(j, some...)
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		if all = append(all, got...); err != nil {
			return all, err
		}
	}
	return all, nil
}

// sorted returns the sockets that a child made, by kinds.
func sorted(kinds []SocketKind, got []result) ([][]int, error) {
	fds := make([][]int, len(kinds))
	for i, k := range kinds {
		for range k.Count {
			r := got[0]
			got = got[1:]
			switch {
			case r.err == unix.EAFNOSUPPORT && len(kinds) > 1:
				continue
			case r.err != nil:
				return nil, fail("make a socket", r.err, "")
			}
			if err := checkFresh(r.fd, k); err != nil {
				return nil, fmt.Errorf("receive from child: %w", err)
			}
			fds[i] = append(fds[i], r.fd)
		}
	}
	return fds, nil
}

// checkFresh reports an error unless fd is a fresh socket of the kind.
func checkFresh(fd int, k SocketKind) error {
	unbound := netip.AddrPortFrom(netip.IPv4Unspecified(), 0)
	switch k.Family {
	case unix.AF_INET:
	case unix.AF_INET6:
		unbound = netip.AddrPortFrom(netip.IPv6Unspecified(), 0)
	default:
		got, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
		if err != nil || got != k.Family {
			return fmt.Errorf("a socket is of the family %d (%v), want %d", got, err, k.Family)
		}
		return nil
	}
	if k.Type == unix.SOCK_STREAM {
		return checkTCP(fd, unix.BPF_TCP_CLOSE, unbound)
	}
	return checkUDP(fd, unbound)
}
