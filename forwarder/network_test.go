package forwarder

import (
	"bytes"
	"encoding/binary"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"epiphyte/internal/testnet"
	"epiphyte/stack"
)

// Addresses of a network that the test owns (RFC 5737, RFC 3849).
const (
	there4       = "192.0.2.1"
	there6       = "2001:db8::1"
	unreachable4 = "198.51.100.1"
	unreachable6 = "2001:db8:1::1"
	prohibited4  = "203.0.113.1"
	prohibited6  = "2001:db8:2::1"
	nowhere4     = "192.88.99.1"
	nowhere6     = "2001:db8:3::1"
)

// ownNetwork moves the test into a network namespace of its own, in which the
// addresses above are what they are called. Package test covers this end to end.
func ownNetwork(t *testing.T, pingGroups string) {
	t.Helper()
	lo := testnet.OwnNetwork(t)
	setSysctl(t, "ipv4/ping_group_range", pingGroups)
	for _, a := range []string{there4 + "/32", there6 + "/128"} {
		addr, err := netlink.ParseAddr(a)
		if err != nil {
			t.Fatal(err)
		}
		addr.Flags = unix.IFA_F_NODAD
		testnet.Need(t, "the address "+a, netlink.AddrAdd(lo, addr), unix.EOPNOTSUPP, unix.EACCES) // no IPv6
	}
	// The kernel makes the address local by a work queue, later.
	local := func() bool {
		routes, err := netlink.RouteGet(net.ParseIP(there6))
		return err == nil && len(routes) > 0 && routes[0].Type == unix.RTN_LOCAL
	}
	if !testnet.Within(5*time.Second, local) {
		t.Fatalf("%s does not become local", there6)
	}
	for dst, typ := range map[string]int{
		unreachable4 + "/32": unix.RTN_UNREACHABLE, unreachable6 + "/128": unix.RTN_UNREACHABLE,
		prohibited4 + "/32": unix.RTN_PROHIBIT, prohibited6 + "/128": unix.RTN_PROHIBIT,
	} {
		_, prefix, err := net.ParseCIDR(dst)
		if err != nil {
			t.Fatal(err)
		}
		if err := netlink.RouteAdd(&netlink.Route{Dst: prefix, Type: typ}); err != nil {
			t.Fatalf("add route %s: %v", dst, err)
		}
	}
}

// setSysctl sets one below net. Only where /proc is read-only is the test skipped.
func setSysctl(t *testing.T, name, value string) {
	t.Helper()
	testnet.Need(t, "sysctl net/"+name, os.WriteFile("/proc/sys/net/"+name, []byte(value), 0), unix.EROFS)
}

// Values of ping_group_range.
const (
	allGroups = "0 2147483647"
	noGroups  = "1 0"
)

// eachPing runs a test in a network of its own by ping sockets, and by the raw ones
// that root has where nobody may have ping sockets.
func eachPing(t *testing.T, test func(t *testing.T)) {
	for name, groups := range map[string]string{"ping sockets": allGroups, "raw sockets": noGroups} {
		t.Run(name, func(t *testing.T) {
			ownNetwork(t, groups)
			test(t)
		})
	}
}

// dropNetRaw takes CAP_NET_RAW from the test's thread, which ends with the test.
func dropNetRaw(t *testing.T) {
	t.Helper()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var caps [2]unix.CapUserData
	if err := unix.Capget(&header, &caps[0]); err != nil {
		t.Fatal(err)
	}
	caps[0].Effective &^= 1 << unix.CAP_NET_RAW
	if err := unix.Capset(&header, &caps[0]); err != nil {
		t.Fatal(err)
	}
}

// TestB26_Echo: what comes back has the guest's identifier, sequence and bytes,
// the address asked and the TTL of its way.
func TestB26_Echo(t *testing.T) { eachPing(t, testEcho) }

func testEcho(t *testing.T) {
	for _, tt := range []struct {
		guest netip.Addr
		there string
		proto uint8
		reply byte
	}{{guest4, there4, stack.ProtoICMP, 0}, {guest6, there6, stack.ProtoICMPv6, 129}} {
		r := newRig(t, setup{})
		there := netip.MustParseAddr(tt.there)
		for i, size := range []int{0, 56, 1472, 2039, 2041, 20000} {
			payload := bytes.Repeat([]byte{byte(i)}, size)
			r.send(testnet.Echo(tt.guest, there, 77, uint16(i), 64, payload))
			p := r.receiveWhole(tt.proto)
			if p.Src != there || p.Dst != tt.guest || p.Payload[0] != tt.reply {
				t.Errorf("%v: type %d from %v to %v", there, p.Payload[0], p.Src, p.Dst)
			}
			id, seq := binary.BigEndian.Uint16(p.Payload[4:]), binary.BigEndian.Uint16(p.Payload[6:])
			if id != 77 || seq != uint16(i) || !bytes.Equal(p.Payload[8:], payload) {
				t.Errorf("%v: id %d, sequence %d, %d bytes; want 77, %d, %d", there, id, seq, len(p.Payload)-8, i, size)
			}
			if p.TTL != 63 {
				t.Errorf("%v: TTL %d, want that of the host's kernel less our hop", there, p.TTL)
			}
		}
		r.wantCounts(counts{Mappings: 1})
		// Another identifier, and the same one of another guest, are others.
		for _, other := range []struct {
			guest netip.Addr
			id    uint16
		}{{tt.guest, 78}, {tt.guest.Next(), 77}} {
			r.send(testnet.Echo(other.guest, there, other.id, 1, 64, []byte("x")))
			if p := r.receive(tt.proto); p.Dst != other.guest || binary.BigEndian.Uint16(p.Payload[4:]) != other.id {
				t.Errorf("%v: reply to %v with id %d", there, p.Dst, binary.BigEndian.Uint16(p.Payload[4:]))
			}
		}
		r.wantCounts(counts{Mappings: 3})
		r.pass(mappingIdleEcho - time.Millisecond)
		r.wantCounts(counts{Mappings: 3})
		r.pass(time.Millisecond)
		r.wantCounts(counts{})
	}
}

// TestB26_RefusedPingIsExplainedOnce: the guest hears nothing, and the log has
// one line with the sysctl to set.
func TestB26_RefusedPingIsExplainedOnce(t *testing.T) {
	ownNetwork(t, noGroups)
	dropNetRaw(t)
	var log bytes.Buffer
	r := newRig(t, setup{Config: Config{Logger: slog.New(slog.NewTextHandler(&log, nil))}})
	for i := range uint16(100) {
		r.send(
			testnet.Echo(guest4, netip.MustParseAddr(there4), i, 1, 64, nil),
			testnet.Echo(guest6, netip.MustParseAddr(there6), i, 1, 64, nil),
		)
	}
	if got := r.received(); len(got) != 0 {
		t.Errorf("the guest was told %+v", got)
	}
	r.wantCounts(counts{})
	if n := bytes.Count(log.Bytes(), []byte("\n")); n != 1 || !bytes.Contains(log.Bytes(), []byte("net.ipv4.ping_group_range")) {
		t.Errorf("log of %d lines:\n%s", n, log.Bytes())
	}
}

// TestB15_Unreachable: the guest is told what the host's kernel said, about its
// own packet, by TCP, UDP and echo alike; never a RST.
func TestB15_Unreachable(t *testing.T) { eachPing(t, testUnreachable) }

func testUnreachable(t *testing.T) {
	for _, tt := range []struct {
		dst       string
		typ, code byte
	}{
		{unreachable4, 3, 1}, {prohibited4, 3, 13}, {nowhere4, 3, 0},
		{unreachable6, 1, 3}, {prohibited6, 1, 1}, {nowhere6, 1, 0},
	} {
		r := newRig(t, setup{})
		dst := netip.MustParseAddr(tt.dst)
		guest, gateway, icmp := guest4, gateway4, uint8(stack.ProtoICMP)
		if dst.Is6() {
			guest, gateway, icmp = guest6, gateway6, stack.ProtoICMPv6
		}
		for _, probe := range []struct {
			name  string
			frame []byte
			proto uint8
		}{
			{"TCP", testnet.SYN(at(guest, 4000), at(dst, 80), 1), stack.ProtoTCP},
			{"UDP", datagram(at(guest, 4000), at(dst, 80)), stack.ProtoUDP},
			{"echo", testnet.Echo(guest, dst, 4000, 80, 64, []byte("x")), icmp},
		} {
			r.send(probe.frame)
			got := append(r.inbox, r.received()...)
			r.inbox = nil
			if len(got) != 1 || got[0].Proto != icmp {
				t.Errorf("%s to %s: the guest was told %+v, want one ICMP error", probe.name, tt.dst, got)
				continue
			}
			p := got[0]
			if p.Payload[0] != tt.typ || p.Payload[1] != tt.code || p.Src != gateway || p.Dst != guest {
				t.Errorf("%s to %s: type %d code %d from %v, want %d %d from the gateway",
					probe.name, tt.dst, p.Payload[0], p.Payload[1], p.Src, tt.typ, tt.code)
			}
			quoted, ok := p.Quoted()
			if !ok || quoted.Proto != probe.proto || quoted.Src != guest || quoted.Dst != dst {
				t.Errorf("%s to %s: quotes %+v", probe.name, tt.dst, quoted)
				continue
			}
			// The first two fields are ports; of an echo, type and checksum,
			// and then the identifier by which ping knows its own.
			if sent, _ := testnet.Parse(probe.frame); probe.name == "echo" {
				if quoted.Payload[0] != sent.Payload[0] || !bytes.Equal(quoted.Payload[4:8], sent.Payload[4:8]) {
					t.Errorf("echo to %s: quotes % x of % x", tt.dst, quoted.Payload[:8], sent.Payload[:8])
				}
			} else if quoted.SrcPort() != 4000 || quoted.DstPort() != 80 {
				t.Errorf("%s to %s: quotes ports %d and %d", probe.name, tt.dst, quoted.SrcPort(), quoted.DstPort())
			}
		}
	}
}

// Outside the loopback the guest's connections, datagrams and their replies
// keep the addresses they were sent to.
func TestB20_OutsideAddressAnswers(t *testing.T) {
	ownNetwork(t, allGroups)
	for _, tt := range []struct {
		guest netip.Addr
		there string
	}{{guest4, there4}, {guest6, there6}} {
		r := newRig(t, setup{})
		there := netip.MustParseAddr(tt.there)
		host, addr := testnet.ListenUDP(t, at(there, 0).String())
		dst := at(there, addr.Port())
		r.send(datagram(at(tt.guest, 4000), dst))
		_, seen := readDatagram(t, host)
		if _, err := host.WriteToUDPAddrPort([]byte("reply"), seen); err != nil {
			t.Fatal(err)
		}
		if p := r.receive(stack.ProtoUDP); p.From() != dst {
			t.Errorf("reply from %v, want %v", p.From(), dst)
		}
		l, addr := testnet.ListenTCP(t, at(there, 0).String())
		r.establish(at(tt.guest, 4000), at(there, addr.Port()), 1)
		l.Close()
	}
}
