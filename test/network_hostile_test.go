package test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"epiphyte/test/harness"
)

// toAll is every Ethernet address; toNodes is that of all IPv6 nodes' multicast address.
var (
	toAll   = [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	toNodes = [6]byte{0x33, 0x33, 0, 0, 0, 1}
)

// arp is an ARP frame that says that sender is at mac.
func arp(to, from, mac [6]byte, op byte, sender, target netip.Addr) []byte {
	b := append(append([]byte{}, to[:]...), from[:]...)
	b = append(b, 0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, op)
	b = append(append(b, mac[:]...), sender.AsSlice()...)
	return append(append(b, to[:]...), target.AsSlice()...)
}

// ndp is a frame of neighbour discovery, with the hop limit that it must have.
func ndp(to, from [6]byte, src, dst netip.Addr, message []byte) []byte {
	packet := ipPacket(src, dst, unix.IPPROTO_ICMPV6, withChecksum(src, dst, unix.IPPROTO_ICMPV6, message, 2))
	packet[7] = 255
	b := append(ethernet(to, packet), packet...)
	copy(b[6:], from[:])
	return b
}

// advertisement says, overriding what is known, that target is at mac (RFC 4861, section 4.4).
func advertisement(target netip.Addr, mac [6]byte) []byte {
	b := append([]byte{136, 0, 0, 0, 0x20, 0, 0, 0}, target.AsSlice()...)
	return append(append(b, 2, 1), mac[:]...)
}

// routerAdvertisement offers a default route and a prefix to make addresses of (RFC 4861,
// section 4.2).
func routerAdvertisement(prefix netip.Addr) []byte {
	b := []byte{134, 0, 0, 0, 64, 0x08, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0, 3, 4, 64, 0xc0, 0, 0, 7, 8, 0, 0, 7, 8, 0, 0, 0, 0}
	return append(b, prefix.AsSlice()...)
}

// attacks are the frames of a member that wants to be others, or nobody to be served.
func attacks(m, victim *member, t testing.TB) (frames [][]byte) {
	own, theirs, gateway := hardware(t, m.MAC), hardware(t, victim.MAC), m.gatewayMAC()
	gateway4, gateway6 := netip.MustParseAddr(m.gateway[unix.AF_INET]), netip.MustParseAddr(m.gateway[unix.AF_INET6])
	nodes, local, routers := netip.MustParseAddr("ff02::1"), netip.MustParseAddr("fe80::bad"), netip.MustParseAddr("fe80::1")
	everybody := netip.MustParseAddr("255.255.255.255")
	for _, to := range [][6]byte{toAll, theirs, gateway} {
		for _, from := range [][6]byte{own, theirs, gateway} {
			for _, claimed := range []netip.Addr{gateway4, victim.IPv4} {
				for _, op := range []byte{1, 2} {
					frames = append(frames, arp(to, from, own, op, claimed, claimed), arp(to, from, own, op, claimed, victim.IPv4))
				}
			}
		}
	}
	for _, to := range [][6]byte{toNodes, theirs, gateway} {
		for _, from := range [][6]byte{own, theirs, gateway} {
			for _, src := range []netip.Addr{local, routers, gateway6, victim.IPv6, m.IPv6} {
				for _, claimed := range []netip.Addr{gateway6, routers, victim.IPv6} {
					frames = append(frames, ndp(to, from, src, nodes, advertisement(claimed, own)))
				}
				frames = append(frames, ndp(to, from, src, nodes, routerAdvertisement(netip.MustParseAddr("fd66::"))))
			}
		}
	}
	offer := append([]byte{2, 1, 6, 0}, make([]byte, 240)...)
	for _, src := range []netip.Addr{gateway4, m.IPv4, victim.IPv4} {
		packet := udpPacket(src, everybody, 67, 68, string(offer))
		frames = append(frames, append(ethernet(toAll, packet), packet...))
		copy(frames[len(frames)-1][6:], own[:])
	}
	for _, f := range []struct{ src, dst netip.Addr }{
		{victim.IPv4, gateway4}, {gateway4, victim.IPv4}, {victim.IPv6, gateway6}, {gateway6, victim.IPv6},
	} {
		for _, to := range [][6]byte{theirs, gateway} {
			packet := udpPacket(f.src, f.dst, 53, 53, "in your name")
			b := append(ethernet(to, packet), packet...)
			copy(b[6:], own[:])
			frames = append(frames, b)
		}
	}
	return frames
}

// meanwhile calls f again and again until the test has ended or stop is called.
func meanwhile(t testing.TB, f func()) (stop func()) {
	t.Helper()
	end := make(chan struct{})
	var done sync.WaitGroup
	done.Go(func() {
		for {
			select {
			case <-end:
				return
			default:
				f()
			}
		}
	})
	stop = sync.OnceFunc(func() { close(end); done.Wait() })
	t.Cleanup(stop)
	return stop
}

// configuration is what a member's kernel believes of its network: addresses and routes,
// and where neighbours are.
func (m *member) configuration(t testing.TB) (all []string, at map[string]string) {
	at = make(map[string]string)
	t.Helper()
	m.change(t, func(l netlink.Link) error {
		addrs, err := netlink.AddrList(l, netlink.FAMILY_ALL)
		for _, a := range addrs {
			all = append(all, "address "+a.IPNet.String())
		}
		routes, routesErr := netlink.RouteList(l, netlink.FAMILY_ALL)
		for _, r := range routes {
			all = append(all, fmt.Sprintf("route %v by %v", r.Dst, r.Gw))
		}
		neighbors, neighborsErr := netlink.NeighList(l.Attrs().Index, netlink.FAMILY_ALL)
		for _, n := range neighbors {
			if len(n.HardwareAddr) == 6 {
				at[n.IP.String()] = n.HardwareAddr.String()
			}
		}
		return errors.Join(err, routesErr, neighborsErr)
	})
	slices.Sort(all)
	return all, at
}

// TestN7_HostileMember: the root of one member's namespace floods, and says that it is
// the gateway or a neighbour in every way. The others' traffic goes on, their kernels
// believe nothing of it, and what was dropped is counted.
func TestN7_HostileMember(t *testing.T) {
	t.Parallel()
	n := newNetworks(t)
	outside := newOutside(t)
	db, app, bad := n.run(t, "web", "db"), n.run(t, "web", "app"), n.run(t, "web", "bad")
	db.serveEcho(t)
	app.finds(t, db)
	for _, f := range families() {
		if err := app.tryTCP(t, f, outside.of(f), deadline); err != nil {
			t.Fatal(err)
		}
	}
	before, _ := app.configuration(t)
	wire := bad.wire(t)
	send := func(b []byte) { _ = unix.Send(wire.fd, b, 0) } // its own queue may be full
	frames := attacks(bad, app, t)
	flood := udpPacket(bad.IPv4, netip.MustParseAddr("255.255.255.255"), 4000, 7000, strings.Repeat("x", 1200))
	flood = append(ethernet(toAll, flood), flood...)
	own := hardware(t, bad.MAC)
	copy(flood[6:], own[:])
	stop := meanwhile(t, func() {
		for _, b := range frames {
			send(b)
			for range 50 {
				send(flood)
			}
		}
	})
	// It also takes both addresses, and says so as kernels do.
	bad.change(t, func(l netlink.Link) error {
		for _, a := range []string{bad.gateway[unix.AF_INET] + "/24", app.IPv4.String() + "/24", bad.gateway[unix.AF_INET6] + "/64", app.IPv6.String() + "/64"} {
			addr, err := netlink.ParseAddr(a)
			if err != nil {
				return err
			}
			addr.Flags = unix.IFA_F_NODAD
			if err := netlink.AddrAdd(l, addr); err != nil {
				return err
			}
		}
		return nil
	})
	resume := make(chan struct{})
	close(resume)
	_, done := transfer(t, app, db, 64<<20, resume)
	for range 20 {
		for _, f := range families() {
			// A SYN that finds a queue full of the flood follows a second later.
			for _, to := range []string{db.address(f), outside.of(f)} {
				eventually(t, deadline, func() error { return app.tryTCP(t, f, to, patience) })
			}
		}
		wantRecords(t, app, "udp4", "db", dns.TypeA, db.IPv4.String())
	}
	if err := <-done; err != nil {
		t.Errorf("a transfer beside it: %v", err)
	}
	stop()
	after, at := app.configuration(t)
	if !slices.Equal(after, before) {
		t.Errorf("a neighbour's addresses and routes were %v, and are %v", before, after)
	}
	gateway := net.HardwareAddr(slices.Clone(wire.gateway[:])).String()
	for addr, mac := range map[string]string{
		bad.gateway[unix.AF_INET]: gateway, bad.gateway[unix.AF_INET6]: gateway, "fe80::1": gateway,
		db.IPv4.String(): db.MAC, db.IPv6.String(): db.MAC,
	} {
		if got := at[addr]; got != mac && (got != "" || addr != "fe80::1") {
			t.Errorf("a neighbour finds %s at %q, which is %s", addr, got, mac)
		}
	}
	for _, m := range n.inspect(t, "web").members {
		t.Logf("%s: %+v", m.Name, m.Stats)
		hostile := m.Name == "bad"
		if hostile && (m.Stats.Spoofed < uint64(len(frames))/2 || m.Stats.Rate == 0) || !hostile && m.Stats.Spoofed > 0 {
			t.Errorf("%s: %+v", m.Name, m.Stats)
		}
	}
}

// TestN7_StoppedMember costs the others nothing: its processes are stopped, its sockets
// and connections full, its interface down in the end.
func TestN7_StoppedMember(t *testing.T) {
	t.Parallel()
	n := newNetworks(t)
	db, app := n.run(t, "web", "db"), n.run(t, "web", "app")
	stopped, busy := n.run(t, "web", "stopped"), n.run(t, "web", "busy")
	db.serveEcho(t)
	f := families()[0]
	// A server that never reads, and a client that has filled it.
	l := must(stopped.Listen("tcp4", "0.0.0.0:7001"))(t)
	defer l.Close()
	full := client(t, app.NetNS, "tcp4", stopped.IPv4.String()+":7001")
	full.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
	for {
		if _, err := full.Write(make([]byte, 1<<20)); err != nil {
			break
		}
	}
	must(stopped.ListenPacket("udp4", "0.0.0.0:7001"))(t).Close()
	for _, pid := range []int{stopped.PID, stopped.helper.PID} {
		if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { _ = unix.Kill(stopped.helper.PID, unix.SIGCONT) })
	blast := client(t, busy.NetNS, "udp4", stopped.IPv4.String()+":7001")
	stop := meanwhile(t, func() { _, _ = blast.Write(make([]byte, 8000)) })
	resume := make(chan struct{})
	close(resume)
	known := func(wait time.Duration) error {
		r, err := app.tryAsk(t, "udp4", "stopped", dns.TypeA, wait)
		if err == nil && len(r.Answer) != 1 {
			err = fmt.Errorf("stopped is not known: %v", r)
		}
		return err
	}
	check := func(what string) {
		t.Helper()
		_, done := transfer(t, app, db, 64<<20, resume)
		for range 10 {
			if err := app.tryTCP(t, f, db.address(f), deadline); err != nil {
				t.Errorf("%s: %v", what, err)
			}
		}
		if err := known(deadline); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if err := <-done; err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	check("stopped")
	stopped.change(t, netlink.LinkSetDown)
	check("its interface is down")
	stop()
	if i := slices.IndexFunc(n.inspect(t, "web").members, func(m shownMember) bool { return m.Name == "stopped" && m.Stats.Refused > 0 }); i < 0 {
		t.Error("nothing was refused")
	}
	// It cannot help when the worker is replaced, and need not.
	kill(t, n.inspect(t, "web").Worker)
	soon(t, 2*time.Second, func() error {
		return errors.Join(app.tryTCP(t, f, db.address(f), patience), known(patience))
	})
}

// TestN7_FewDescriptors: when the network's processes may open no more, the next member
// is refused in one line; those that are there go on, and one that leaves makes room. A
// member costs four descriptors: of as many limits, each has another step of joining fail.
func TestN7_FewDescriptors(t *testing.T) {
	for limit := 40; limit < 44; limit++ {
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			t.Parallel()
			fewDescriptors(t, limit)
		})
	}
}

func fewDescriptors(t *testing.T, limit int) {
	n := newNetworks(t)
	cfg := n.cfg
	cfg.Args, cfg.NoWait = []string{"network", "serve", "--stay", "web"}, true
	cfg.Wrap = []string{"sh", "-c", fmt.Sprintf(`ulimit -n %d; exec "$0" "$@"`, limit)}
	service := must(env.Start(timeout(t, deadline), cfg))(t)
	t.Cleanup(service.Kill)
	eventually(t, deadline, func() error { _, err := n.tryInspect(t, "web"); return err })
	db, app := n.run(t, "web", "db"), n.run(t, "web", "app")
	db.serveEcho(t)
	var last *harness.Guest
	refused := 0
	for i := range 40 {
		g := newGuest(t)
		_, stderr, code := n.try(t, "network", "connect", "web", fmt.Sprint(g.PID), "--name", fmt.Sprint("m", i))
		if code == 0 {
			last = g
			continue
		}
		if code != 1 || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, "ulimit -n") {
			t.Errorf("member %d: exit status %d, %q", i, code, stderr)
		}
		if links := must(g.Links())(t); len(links) > 0 {
			t.Errorf("a refused member has %v", links)
		}
		if refused++; refused == 3 {
			break
		}
	}
	if refused < 3 || last == nil {
		t.Fatalf("refused %d times", refused)
	}
	app.finds(t, db)
	members := n.inspect(t, "web").members
	name := members[len(members)-1].Name
	n.do(t, "network", "disconnect", "web", name)
	n.do(t, "network", "connect", "web", fmt.Sprint(newGuest(t).PID), "--name", "again")
	app.finds(t, db)
	n.do(t, "network", "rm", "--force", "web")
}
