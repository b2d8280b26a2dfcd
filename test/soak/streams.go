package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/test/harness"
)

// route is a way by which clients reach a server.
type route struct {
	name string
	from *harness.NetNS
	to   string
	dead string // a server there refuses
	late bool   // a client is accepted before the server is asked
}

// routes are the ways of streams through a helper.
func (s *site) routes(e *harness.Env) []route {
	guest, tcp, dead := s.guest.NetNS, s.first+publishedTCP, s.first+publishedDead
	return []route{
		{"TCP out, IPv4", guest, at(harness.NetIPv4, netPort), at(harness.NetIPv4, closedPort), false},
		{"TCP out, IPv6", guest, at(harness.NetIPv6, netPort), at(harness.NetIPv6, closedPort), false},
		{"TCP to the host's loopback", guest, at(gatewayIPv4, hostPort), at(gatewayIPv4, closedPort), false},
		{"TCP to the host's loopback", guest, at(gatewayIPv6, hostPort), at(gatewayIPv6, closedPort), false},
		{"TCP published, IPv4", e.Net.Net, at(harness.HostIPv4, tcp), at(harness.HostIPv4, dead), true},
		{"TCP published, IPv6", e.Net.Net, at(harness.HostIPv6, tcp), at(harness.HostIPv6, dead), true},
		{"TCP published, loopback", e.Host, at("127.0.0.1", tcp), at("127.0.0.1", dead), true},
		{"TCP published, loopback", e.Host, at("::1", tcp), at("::1", dead), true},
		{"TCP exposed", guest, at("127.0.0.1", exposedPort), at("127.0.0.1", exposedDead), true},
		{"TCP exposed", guest, at("::1", exposedPort), at("::1", exposedDead), true},
	}
}

// exchange makes one connection and carries out an order.
func (r route) exchange(ctx context.Context, l *ledger, o order, n *count) error {
	verdict, done := l.open(o.ID)
	defer done()
	c, err := r.from.Dial(ctx, "tcp", r.to)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	n.bytes.Add(o.bytes())
	return l.run(o, c.(*net.TCPConn), verdict)
}

// refused connects where nobody listens.
func (r route) refused(ctx context.Context) error {
	want := unix.ECONNREFUSED
	if r.late {
		want = unix.ECONNRESET
	}
	return expect(ctx, r.from, r.dead, want)
}

// expect connects, and wants an error then, or when it reads.
func expect(ctx context.Context, ns *harness.NetNS, to string, want syscall.Errno) error {
	c, err := ns.Dial(ctx, "tcp", to)
	if err == nil {
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
			return err
		}
		_, err = c.Read(make([]byte, 1))
	}
	if !errors.Is(err, want) {
		return fmt.Errorf("to %s: want %v: %w", to, want, err)
	}
	return nil
}

// streamJob makes exchanges, and connections that are refused, by one route.
func (s *site) streamJob(way route) job {
	return job{name: way.name, pause: 80 * time.Millisecond, do: func(ctx context.Context, r *rand.Rand, n *count) error {
		if r.IntN(10) == 0 {
			return way.refused(ctx)
		}
		return way.exchange(ctx, s.servers.ledger, anyOrder(r), n)
	}}
}

// shortJob makes connections as browsers and probes do, as fast as one client can.
func (s *site) shortJob(way route) job {
	way.name = "short connections"
	return job{name: way.name, pause: 10 * time.Millisecond, do: func(ctx context.Context, r *rand.Rand, n *count) error {
		return way.exchange(ctx, s.servers.ledger, order{Kind: answer, ID: r.Uint64(), Up: 100, Down: uint32(r.IntN(2000))}, n)
	}}
}

// burstJob makes many connections at once.
func (s *site) burstJob(way route) job {
	return job{name: "bursts of connections", pause: 10 * time.Second, do: func(ctx context.Context, r *rand.Rand, n *count) error {
		errs := make([]error, 20+r.IntN(40))
		var wg sync.WaitGroup
		for i := range errs {
			o := order{Kind: echo, ID: r.Uint64(), Up: uint32(r.IntN(4000))}
			wg.Go(func() { errs[i] = way.exchange(ctx, s.servers.ledger, o, n) })
		}
		wg.Wait()
		return errors.Join(errs...)
	}}
}

// deadEndJob connects where no answer, or an ICMP error, comes back.
func (s *site) deadEndJob() job {
	ends := map[string]syscall.Errno{
		harness.HostUnreachableIPv4: unix.EHOSTUNREACH, harness.HostUnreachableIPv6: unix.EHOSTUNREACH,
		harness.NetUnreachableIPv4: unix.ENETUNREACH, harness.NetUnreachableIPv6: unix.ENETUNREACH,
	}
	silent := []string{harness.SilentIPv4, harness.SilentIPv6}
	return job{name: "dead ends", pause: time.Second, do: func(ctx context.Context, r *rand.Rand, _ *count) error {
		for host, want := range ends {
			if err := expect(ctx, s.guest.NetNS, at(host, netPort), want); err != nil {
				return err
			}
		}
		short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
		defer cancel()
		c, err := s.guest.Dial(short, "tcp", at(silent[r.IntN(2)], netPort))
		if err == nil {
			c.Close()
			return errors.New("connected to a machine that swallows everything")
		}
		return nil
	}}
}
