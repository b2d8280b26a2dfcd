package forwarder

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"epiphyte/internal/testnet"
	"epiphyte/stack"
)

// A router one hop away, and a network behind it whose MTU is smaller than the
// way to it (RFC 2544, and a part of RFC 3849).
const (
	routerMTU = 1300

	hostLink4, hostLink6 = "198.18.0.1", "2001:db8:a::1"
	router4, router6     = "198.18.0.2", "2001:db8:a::2"
	beyond4, beyond6     = "198.19.0.1", "2001:db8:b::1"
	far4, far6           = "198.19.0.9", "2001:db8:b::9"
)

// ownRouter is ownNetwork with the router's namespace behind a veth pair.
func ownRouter(t *testing.T, pingGroups string) {
	t.Helper()
	ownNetwork(t, pingGroups)
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "host"}, PeerName: "router"}
	testnet.Need(t, "a veth pair", netlink.LinkAdd(veth), unix.EOPNOTSUPP)
	ns, move := make(chan int), make(chan bool)
	result := make(chan error, 1)
	go func() { result <- runRouter(ns, move) }()
	fd, ok := <-ns
	if !ok {
		t.Fatalf("make router: %v", <-result)
	}
	peer, err := netlink.LinkByName("router")
	if err == nil {
		err = netlink.LinkSetNsFd(peer, fd)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err != nil {
		close(move)
		t.Fatal(err)
	}
	move <- true
	if err := <-result; err != nil {
		t.Fatalf("configure router: %v", err)
	}
	if err := configureLink("host", hostLink4+"/24", hostLink6+"/64"); err != nil {
		t.Fatal(err)
	}
	for _, gw := range []string{router4, router6} {
		if err := netlink.RouteAdd(&netlink.Route{Gw: netip.MustParseAddr(gw).AsSlice()}); err != nil {
			t.Fatalf("add default route: %v", err)
		}
	}
}

// runRouter makes the router's namespace on a thread of its own. The descriptor
// that it sends keeps the namespace alive after the thread.
func runRouter(ns chan<- int, moved <-chan bool) error {
	runtime.LockOSThread() // and never unlocked: the thread ends here
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		close(ns)
		return err
	}
	fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		close(ns)
		return err
	}
	ns <- fd
	if !<-moved {
		return nil
	}
	for _, name := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
		if err := os.WriteFile("/proc/sys/net/"+name, []byte("1"), 0); err != nil {
			return err
		}
	}
	if err := configureLink("router", router4+"/24", router6+"/64"); err != nil {
		return err
	}
	beyond := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "beyond", MTU: routerMTU}, PeerName: "void"}
	if err := netlink.LinkAdd(beyond); err != nil {
		return err
	}
	if err := configureLink("void"); err != nil {
		return err
	}
	return configureLink("beyond", beyond4+"/24", beyond6+"/64")
}

func configureLink(name string, addrs ...string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return err
	}
	for _, a := range addrs {
		addr, err := netlink.ParseAddr(a)
		if err != nil {
			return err
		}
		addr.Flags = unix.IFA_F_NODAD
		if err := netlink.AddrAdd(link, addr); err != nil {
			return err
		}
	}
	return nil
}

// TestB26_ErrorsOfRouters: what a router says about a packet of ours, it says
// to the guest about its own: by whom, why, and about what.
func TestB26_ErrorsOfRouters(t *testing.T) {
	for name, groups := range map[string]string{"ping sockets": allGroups, "raw sockets": noGroups} {
		t.Run(name, func(t *testing.T) { testErrorsOfRouters(t, groups) })
	}
}

func testErrorsOfRouters(t *testing.T, pingGroups string) {
	ownRouter(t, pingGroups)
	for _, tt := range []struct {
		guest            netip.Addr
		router, far      string
		icmp             uint8
		exceeded, tooBig byte
		tooBigCode       byte
	}{
		{guest4, router4, far4, stack.ProtoICMP, 11, 3, 4},
		{guest6, router6, far6, stack.ProtoICMPv6, 3, 2, 0},
	} {
		r := newRig(t, setup{})
		far := netip.MustParseAddr(tt.far)
		src, dst := at(tt.guest, 4000), at(far, 33434)
		big := bytes.Repeat([]byte("x"), 1400)
		for _, probe := range []struct {
			name      string
			frame     []byte
			typ, code byte
		}{
			{"UDP, TTL 2", testnet.UDP(src, dst, 2, []byte("probe")), tt.exceeded, 0},
			{"echo, TTL 2", testnet.Echo(tt.guest, far, 77, 3, 2, []byte("probe")), tt.exceeded, 0},
			{"UDP, too big", testnet.UDP(src, dst, 64, big), tt.tooBig, tt.tooBigCode},
		} {
			var p testnet.Packet
			// The first packet over the link may be lost to neighbour discovery.
			for try := time.Now().Add(5 * time.Second); time.Now().Before(try) && !p.Src.IsValid(); {
				r.send(probe.frame)
				for i := 0; i < 50 && !p.Src.IsValid(); i++ {
					if err := r.Shard.Turn(time.Millisecond); err != nil {
						t.Fatal(err)
					}
					for _, got := range r.received() {
						p = got
					}
				}
			}
			if !p.Src.IsValid() {
				t.Errorf("%s to %v: the guest hears nothing", probe.name, far)
				continue
			}
			if p.Proto != tt.icmp || p.Payload[0] != probe.typ || p.Payload[1] != probe.code || p.Src.String() != tt.router {
				t.Errorf("%s to %v: protocol %d type %d code %d from %v, want type %d code %d from %v",
					probe.name, far, p.Proto, p.Payload[0], p.Payload[1], p.Src, probe.typ, probe.code, tt.router)
			}
			sent, _ := testnet.Parse(probe.frame)
			quoted, ok := p.Quoted()
			if !ok || quoted.Proto != sent.Proto || quoted.Src != tt.guest || quoted.Dst != far {
				t.Errorf("%s to %v: quotes %+v", probe.name, far, quoted)
			} else if sent.Proto == stack.ProtoUDP && (quoted.SrcPort() != 4000 || quoted.DstPort() != 33434) ||
				sent.Proto != stack.ProtoUDP && !bytes.Equal(quoted.Payload[4:8], sent.Payload[4:8]) {
				t.Errorf("%s to %v: quotes % x of % x", probe.name, far, quoted.Payload[:8], sent.Payload[:8])
			}
			if probe.typ == tt.tooBig && far.Is4() {
				if mtu := binary.BigEndian.Uint16(p.Payload[6:]); mtu != routerMTU {
					t.Errorf("%s to %v: MTU %d", probe.name, far, mtu)
				}
			} else if probe.typ == tt.tooBig {
				if mtu := binary.BigEndian.Uint32(p.Payload[4:]); mtu != routerMTU {
					t.Errorf("%s to %v: MTU %d", probe.name, far, mtu)
				}
			}
		}
	}
}

// A super-datagram whose segments do not fit the host's way out is cut here,
// and its datagrams are fragmented by the host as any others.
func TestSuperDatagramBeyondMTU(t *testing.T) {
	ownNetwork(t, allGroups)
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetMTU(lo, routerMTU); err != nil {
		t.Fatalf("set MTU: %v", err)
	}
	for _, tt := range []struct {
		guest netip.Addr
		there string
	}{{guest4, there4}, {guest6, there6}} {
		r := newRigOn(t, setup{}, true)
		there := netip.MustParseAddr(tt.there)
		host, addr := testnet.ListenUDP(t, at(there, 0).String())
		payload := make([]byte, 5000)
		for i := range payload {
			payload[i] = byte(i / 1472)
		}
		frame := testnet.UDP(at(tt.guest, 4000), at(there, addr.Port()), 64, payload)
		if err := r.Port.WriteSegments(1472, frame); err != nil {
			t.Fatal(err)
		}
		r.turn()
		for off := 0; off < len(payload); off += 1472 {
			want := payload[off:min(off+1472, len(payload))]
			if got, _ := readDatagram(t, host); !bytes.Equal(got, want) {
				t.Fatalf("%v: at %d came %d bytes, want %d", there, off, len(got), len(want))
			}
		}
	}
}
