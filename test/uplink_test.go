package test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"epiphyte/test/harness"
)

// uplink is a host of its own with one way out, which a test may take away.
type uplink struct {
	host, far *harness.NetNS
}

// Addresses of an uplink.
const (
	uplinkIPv4, farIPv4 = "203.0.113.65", "203.0.113.66"
	uplinkIPv6, farIPv6 = "2001:db8:5::1", "2001:db8:5::2"
	uplinkName          = "way0"
)

func newUplink(t testing.TB) *uplink {
	t.Helper()
	u := &uplink{host: must(env.NewNS())(t), far: must(env.NewNS())(t)}
	t.Cleanup(func() { u.host.Close(); u.far.Close() })
	if err := u.make(); err != nil {
		t.Fatal(err)
	}
	return u
}

// make adds the interface, its peer and their addresses.
func (u *uplink) make() error {
	if err := u.host.Link(uplinkName, u.far, uplinkName); err != nil {
		return err
	}
	return errors.Join(u.address(netlink.AddrReplace), u.farAddress(netlink.AddrReplace))
}

// farAddress adds the addresses of the far end, or removes them.
func (u *uplink) farAddress(change func(netlink.Link, *netlink.Addr) error) error {
	return u.far.Do(func() error { return withAddresses(change, farIPv4+"/24", farIPv6+"/64") })
}

// address adds the host's addresses, or removes them.
func (u *uplink) address(change func(netlink.Link, *netlink.Addr) error) error {
	return u.host.Do(func() error { return withAddresses(change, uplinkIPv4+"/24", uplinkIPv6+"/64") })
}

func withAddresses(change func(netlink.Link, *netlink.Addr) error, cidrs ...string) error {
	l, err := netlink.LinkByName(uplinkName)
	if err != nil {
		return err
	}
	for _, cidr := range cidrs {
		a, err := netlink.ParseAddr(cidr)
		if err != nil {
			return err
		}
		a.Flags = unix.IFA_F_NODAD
		if err := change(l, a); err != nil {
			return fmt.Errorf("%s: %w", cidr, err)
		}
	}
	return nil
}

// link changes the host's interface.
func (u *uplink) link(change func(netlink.Link) error) error {
	return u.host.Do(func() error {
		l, err := netlink.LinkByName(uplinkName)
		if err != nil {
			return err
		}
		return change(l)
	})
}

// TestHostsInterfaceGoneAndBack: while the host has no way out the guest is told so,
// and when it has one again all goes on as before: connections, the mappings of the
// guest's sockets, published ports.
func TestHostsInterfaceGoneAndBack(t *testing.T) {
	ours(t, "--publish")
	for name, c := range map[string]struct{ take, give func(*uplink) error }{
		"down and up": {
			func(u *uplink) error { return u.link(netlink.LinkSetDown) },
			func(u *uplink) error {
				return errors.Join(u.link(netlink.LinkSetUp), u.address(netlink.AddrReplace))
			},
		},
		"addresses removed": {
			func(u *uplink) error { return u.address(netlink.AddrDel) },
			func(u *uplink) error { return u.address(netlink.AddrReplace) },
		},
		"removed and made again": {
			func(u *uplink) error { return u.link(netlink.LinkDel) },
			(*uplink).make,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			u := newUplink(t)
			w := serveWith(t, harness.HelperConfig{Host: u.host},
				"-p", uplinkIPv4+":8080", "-p", "["+uplinkIPv6+"]:8080")
			eachFamily(t, func(t *testing.T, f family) {
				near, far := map[string]string{"4": uplinkIPv4, "6": uplinkIPv6}[f.v], map[string]string{"4": farIPv4, "6": farIPv6}[f.v]
				tcp := serveTCP(t, u.far, "tcp"+f.v, net.JoinHostPort(far, "0"), echoTCP)
				udp := servePacket(t, u.far, "udp"+f.v, net.JoinHostPort(far, "0"), echoPacket)
				serveTCP(t, w.NetNS, "tcp"+f.v, f.anyHost()+":8080", echoTCP)
				old, mapped := w.dial(t, "tcp"+f.v, tcp.String()), w.dial(t, "udp"+f.v, udp.LocalAddr().String())
				in := client(t, u.far, "tcp"+f.v, net.JoinHostPort(near, "8080"))
				for _, c := range []net.Conn{old, mapped, in} {
					if err := says(c, "before"); err != nil {
						t.Fatal(err)
					}
				}

				if err := c.take(u); err != nil {
					t.Fatal(err)
				}
				if c, err := w.Dial(timeout(t, deadline), "tcp"+f.v, tcp.String()); !isErrno(err, unix.ENETUNREACH, unix.EHOSTUNREACH) {
					t.Errorf("connect without a way out gave %v, %v", c, err)
				}
				if _, err := old.Write([]byte("meanwhile")); err != nil {
					t.Error(err)
				}

				if err := c.give(u); err != nil {
					t.Fatal(err)
				}
				b := make([]byte, 100)
				if n, err := old.Read(b); err != nil || string(b[:n]) != "meanwhile" {
					t.Errorf("what was sent meanwhile: %q, %v", b[:n], err)
				}
				if err := says(in, "after"); err != nil {
					t.Errorf("the client that was in: %v", err)
				}
				for addr, by := range map[string]func(testing.TB, string, string) net.Conn{
					tcp.String():                   w.dial,
					net.JoinHostPort(near, "8080"): func(t testing.TB, network, addr string) net.Conn { return client(t, u.far, network, addr) },
				} {
					if err := says(by(t, "tcp"+f.v, addr), "after"); err != nil {
						t.Errorf("a new connection to %s: %v", addr, err)
					}
				}
				// A datagram that is told of the fault may be told late, and one may be lost.
				eventually(t, deadline, func() error {
					if err := mapped.SetDeadline(time.Now().Add(time.Second)); err != nil {
						return err
					}
					return says(mapped, "after")
				})
			})
		})
	}
}

// TestFullQueueOfTheHost: where a queue of the host's has no room (ENOBUFS) datagrams
// are lost, as anywhere in a network, and streams wait. Nobody is told of an error, and
// all goes on when there is room.
func TestFullQueueOfTheHost(t *testing.T) {
	tc := needs(t, "tc")
	u := newUplink(t)
	w := serveWith(t, harness.HelperConfig{Host: u.host})
	queue := func(t *testing.T, args string) (said string) {
		t.Helper()
		if err := u.host.Do(func() error {
			out, err := exec.CommandContext(t.Context(), tc, strings.Fields(args)...).CombinedOutput()
			said = string(out)
			return err
		}); err != nil {
			t.Fatalf("tc %s: %v: %s", args, err, said)
		}
		return said
	}
	eachFamily(t, func(t *testing.T, f family) {
		far := map[string]string{"4": farIPv4, "6": farIPv6}[f.v]
		udp := servePacket(t, u.far, "udp"+f.v, net.JoinHostPort(far, "0"), echoPacket)
		tcp := serveTCP(t, u.far, "tcp"+f.v, net.JoinHostPort(far, "0"), echoTCP)
		datagrams, stream := w.dial(t, "udp"+f.v, udp.LocalAddr().String()), w.dial(t, "tcp"+f.v, tcp.String())
		for _, c := range []net.Conn{datagrams, stream} {
			if err := says(c, "before"); err != nil {
				t.Fatal(err)
			}
		}
		queue(t, "qdisc replace dev "+uplinkName+" root pfifo limit 0")
		if _, err := stream.Write([]byte("meanwhile")); err != nil {
			t.Error(err)
		}
		for i := range 100 {
			if _, err := datagrams.Write([]byte("lost")); err != nil {
				t.Fatalf("datagram %d: %v", i, err)
			}
		}
		// Datagrams that left as one count once. When the count stands still, all are lost.
		lost := ""
		eventually(t, deadline, func() error {
			said := queue(t, "-s qdisc show dev "+uplinkName)
			before := lost
			_, lost, _ = strings.Cut(said, "(dropped ")
			if lost, _, _ = strings.Cut(lost, ","); lost == "0" || lost != before {
				return errors.New(said)
			}
			return nil
		})
		queue(t, "qdisc del dev "+uplinkName+" root")
		b := make([]byte, 100)
		if n, err := stream.Read(b); err != nil || string(b[:n]) != "meanwhile" {
			t.Errorf("what was sent meanwhile: %q, %v", b[:n], err)
		}
		for _, c := range []net.Conn{datagrams, stream} {
			if err := says(c, "after"); err != nil {
				t.Error(err)
			}
		}
	})
}

// TestB18_PeerThatVanishes: a host that is silent from some moment on is asked by
// keepalive, and the guest's connection is reset when it does not answer. The times are
// looked at, and then shortened, since they are minutes.
func TestB18_PeerThatVanishes(t *testing.T) {
	ours(t, "keepalive")
	t.Parallel()
	u := newUplink(t)
	w := serveWith(t, harness.HelperConfig{Host: u.host})
	eachFamily(t, func(t *testing.T, f family) {
		far := map[string]string{"4": farIPv4, "6": farIPv6}[f.v]
		addr := serveTCP(t, u.far, "tcp"+f.v, net.JoinHostPort(far, "0"), echoTCP)
		c := w.dial(t, "tcp"+f.v, addr.String())
		if err := says(c, "before"); err != nil {
			t.Fatal(err)
		}
		fd := must(w.helper.Socket(netip.MustParseAddrPort(addr.String())))(t)
		defer unix.Close(fd)
		// Short connections are spared the calls: it takes ten seconds.
		eventually(t, 3*deadline, func() error {
			on, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE)
			if err == nil && on == 0 {
				err = errors.New("no keepalive")
			}
			return err
		})
		// The idle time comes last: it is over at once, and the next probe is an interval later.
		for _, times := range []struct{ option, want int }{{unix.TCP_KEEPCNT, 0}, {unix.TCP_KEEPINTVL, 60}, {unix.TCP_KEEPIDLE, 300}} {
			if got, err := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, times.option); err != nil || times.want != 0 && got != times.want {
				t.Errorf("option %d is %d, %v, want %d", times.option, got, err, times.want)
			}
			if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, times.option, 1); err != nil {
				t.Fatal(err)
			}
		}
		if err := says(c, "it answers"); err != nil {
			t.Fatal(err)
		}
		if err := u.farAddress(netlink.AddrDel); err != nil {
			t.Fatal(err)
		}
		if n, err := c.Read(make([]byte, 1)); !isErrno(err, unix.ECONNRESET) {
			t.Errorf("read %d bytes, %v, want a reset", n, err)
		}
		if err := u.farAddress(netlink.AddrReplace); err != nil {
			t.Fatal(err)
		}
	})
}

// TestDNSFollowsTheHost: a query is answered although the host had another address a moment
// ago, and the socket by which the query before it has left still has that.
func TestDNSFollowsTheHost(t *testing.T) {
	ours(t, "another address of the host")
	for nameserver, move := range map[string]struct{ from, to string }{
		farIPv4: {uplinkIPv4 + "/24", movedIPv4 + "/24"},
		farIPv6: {uplinkIPv6 + "/64", movedIPv6 + "/64"},
	} {
		t.Run(nameserver, func(t *testing.T) {
			t.Parallel()
			u := newUplink(t)
			serveDNS(t, u.far, nameserver, named("192.0.2.31"))
			w := serveWith(t, harness.HelperConfig{Host: u.host, Etc: etc(t, nameserver)})
			ask := func(when string) {
				t.Helper()
				if _, got, err := w.lookup(t, "udp", dns4, "example.org.", deadline); err != nil || got != "192.0.2.31" {
					t.Fatalf("%s: %q, %v", when, got, err)
				}
			}
			ask("at first")
			if err := u.host.Do(func() error {
				return errors.Join(withAddresses(netlink.AddrDel, move.from), withAddresses(netlink.AddrReplace, move.to))
			}); err != nil {
				t.Fatal(err)
			}
			ask("after the host has moved")
		})
	}
}
