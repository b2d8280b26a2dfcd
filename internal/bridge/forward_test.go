package bridge

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"epiphyte/internal/addressing/addressingtest"
	"epiphyte/internal/sockio"
	"epiphyte/internal/testnet"
	"epiphyte/stack"
)

// write writes a frame as the stack does.
func (n *network) write(frame []byte) unix.Errno {
	_, errno := n.bridge.Writev([]unix.Iovec{sockio.Vec(make([]byte, header.VirtioNetHeaderSize)), sockio.Vec(frame[:20]), sockio.Vec(frame[20:])})
	return errno
}

// What the stack writes goes to whom it is for, super-segment or not.
func TestStackWritesToMembers(t *testing.T) {
	n := newNetwork(t, 3, Config{Isolate: true})
	gateway := n.plan.MAC
	for _, tc := range []struct {
		dst  [6]byte
		want map[int]int
	}{
		{me.MAC, map[int]int{0: 1}},
		{you.MAC, map[int]int{1: 1}},
		{broadcast, map[int]int{0: 1, 1: 1, 2: 1}},
		{[6]byte{0x33, 0x33, 0, 0, 0, 1}, map[int]int{0: 1, 1: 1, 2: 1}},
		{[6]byte{}, nil},
		{gateway, nil},
	} {
		frame := ethernet(gateway, tc.dst, testnet.UDP(at(n.plan.Gateway, 9), at(me.IPv4, 9), 64, make([]byte, 60000)))
		errno := n.write(frame)
		got := map[int]int{}
		for i, d := range n.devs {
			for _, f := range d.Sent() {
				got[i]++
				if string(f.Data) != string(frame) {
					t.Errorf("%x: another frame arrived", tc.dst)
				}
			}
		}
		if !same(got, tc.want) || (errno == 0) != (tc.want != nil) {
			t.Errorf("%x: got by %v with %v, want %v", tc.dst, got, errno, tc.want)
		}
	}
}

// A super-segment passes as it is, with its virtio-net header.
func TestSuperSegmentsPassWhole(t *testing.T) {
	n := newNetwork(t, 2, Config{})
	frame := ethernet(me.MAC, you.MAC, testnet.TCP(at(me.IPv4, 9), at(you.IPv4, 9), header.TCPFlagAck, 1, 1, make([]byte, 64000)))
	h := testnet.VNetHdr{Flags: testnet.NeedsCsum, GSOType: testnet.GSOTCPv4, HdrLen: 54, GSOSize: 1460, CsumStart: 34, CsumOffset: 16}
	n.devs[0].InjectVNet(h, frame)
	n.turn()
	sent := n.devs[1].Sent()
	if len(sent) != 1 || sent[0].VNet != h || string(sent[0].Data) != string(frame) {
		t.Errorf("%d frames arrived, or another one", len(sent))
	}
}

func TestIsolatedMembersReachTheGatewayAlone(t *testing.T) {
	n := newNetwork(t, 3, Config{Isolate: true})
	gateway := n.plan.MAC
	for name, tc := range map[string]struct {
		frame []byte
		stack bool
	}{
		"unicast to a member":       {udp(0, you.MAC, at(me.IPv4, 9), at(you.IPv4, 9)), false},
		"ARP for a member":          {testnet.ARP(1, me.MAC, me.IPv4, [6]byte{}, you.IPv4), false},
		"solicitation of a member":  {solicitation(0, me.IPv6, you.IPv6), false},
		"unicast to the gateway":    {udp(0, gateway, at(me.IPv4, 9), at(you.IPv4, 9)), true},
		"broadcast":                 {udp(0, broadcast, at(me.IPv4, 9), at(everybody4, 9)), true},
		"ARP for the gateway":       {testnet.ARP(1, me.MAC, me.IPv4, [6]byte{}, n.plan.Gateway), true},
		"ARP announcement":          {testnet.ARP(1, me.MAC, me.IPv4, [6]byte{}, me.IPv4), true},
		"duplicate address detect.": {solicitation(0, zero6, me.IPv6), true},
	} {
		want := map[int]int{}
		if tc.stack {
			want[stackItself] = 1
		}
		if got := n.send(0, tc.frame); !same(got, want) {
			t.Errorf("%s: got by %v, want %v", name, got, want)
		}
	}
}

// What goes to everybody is bounded for each sender, in copies, and recovers with
// time; so is what the stack answers to everybody. All else is not bounded.
func TestFloodsAreBounded(t *testing.T) {
	for name, tc := range map[string]struct {
		frame  []byte
		copies int
	}{
		"broadcast":           {udp(0, broadcast, at(me.IPv4, 9), at(everybody4, 9)), 4},
		"ARP announcement":    {testnet.ARP(1, me.MAC, me.IPv4, [6]byte{}, me.IPv4), 4},
		"router solicitation": {ethernet(me.MAC, routerMulticast(), testnet.ICMP(myLinkLocal, allRouters, 133, 0, make([]byte, 4))), 4},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNetwork(t, 4, Config{})
			drain := func(sent int) (passed int) {
				for range sent / 256 {
					for range 256 {
						n.devs[0].Inject(tc.frame)
					}
					n.turn()
					passed += len(n.reader.got)
					n.forget()
				}
				return passed
			}
			if got, want := drain(2048), floodBurst/tc.copies; got != want {
				t.Fatalf("at once %d frames passed, want %d", got, want)
			}
			if s := n.ports[0].Stats(); s.Rate != uint64(2048-floodBurst/tc.copies) || s.Spoofed+s.Other > 0 {
				t.Errorf("counted %+v", s)
			}
			if got := n.send(0, udp(0, you.MAC, at(me.IPv4, 9), at(you.IPv4, 9))); got[1] != 1 {
				t.Errorf("unicast after a flood was got by %v", got)
			}
			if got := n.send(1, udp(1, broadcast, at(you.IPv4, 9), at(everybody4, 9))); got[stackItself] != 1 {
				t.Errorf("another's broadcast after a flood was got by %v", got)
			}
			n.clock.Advance(time.Second / 4)
			if err := n.shard.Turn(0); err != nil { // takes note of the time
				t.Fatal(err)
			}
			if got, want := drain(1024), floodRate/4/tc.copies; got != want {
				t.Errorf("a quarter of a second later %d frames passed, want %d", got, want)
			}
		})
	}
}

// A device that is down or full loses the frame, and nobody else notices.
func TestRefusedFramesAreLost(t *testing.T) {
	n := newNetwork(t, 3, Config{})
	unicast, flood := udp(0, you.MAC, at(me.IPv4, 9), at(you.IPv4, 9)), udp(0, broadcast, at(me.IPv4, 9), at(everybody4, 9))
	for i, errno := range []unix.Errno{unix.EIO, unix.EAGAIN, unix.ENOBUFS} {
		n.devs[1].Fail(errno)
		if got := n.send(0, unicast, flood); !same(got, map[int]int{2: 1, stackItself: 1}) {
			t.Errorf("%v: got by %v", errno, got)
		}
		if s := n.ports[1].Stats(); s.Refused != uint64(2*i+2) || s.ToFrames != 0 {
			t.Errorf("%v: counted %+v", errno, s)
		}
	}
	n.devs[1].Fail(0)
	if got := n.send(0, unicast); got[1] != 1 {
		t.Errorf("once it is up again: got by %v", got)
	}
}

// A device that vanishes takes its port along, in the middle of a batch, and nothing
// else.
func TestVanishedDevice(t *testing.T) {
	for _, errno := range []unix.Errno{unix.EBADFD, unix.ENODEV} {
		var gone []*Port
		n := newNetwork(t, 3, Config{Gone: func(p *Port) { gone = append(gone, p); p.bridge.Remove(p) }})
		n.reader.during = func() { n.devs[0].Fail(errno) }
		for range 3 {
			n.devs[0].Inject(udp(0, you.MAC, at(me.IPv4, 9), at(you.IPv4, 9)))
		}
		n.turn()
		n.reader.during = nil
		if len(gone) != 1 || gone[0] != n.ports[0] {
			t.Fatalf("%v: %d ports are gone", errno, len(gone))
		}
		if _, ok := n.bridge.Lookup(me.IPv4); ok {
			t.Error("its address is still there")
		}
		if slices.Contains(n.poller.Watched(), n.devs[0].FD()) {
			t.Error("its device is still watched")
		}
		if got := len(n.devs[1].Sent()); got != 1 {
			t.Errorf("%d frames arrived, want the one before", got)
		}
		if got := n.send(1, udp(1, me.MAC, at(you.IPv4, 9), at(me.IPv4, 9)), udp(1, member(2).MAC, at(you.IPv4, 9), at(member(2).IPv4, 9))); !same(got, map[int]int{2: 1}) {
			t.Errorf("afterwards got by %v", got)
		}
		n.devs[0].Fail(0)
		if _, err := n.bridge.Add(n.devs[0], me); err != nil {
			t.Errorf("add it again: %v", err)
		}
	}
}

// The far end of a socket that stands for a TAP has closed: a read of nothing.
func TestClosedSocketIsGone(t *testing.T) {
	var gone int
	n := newNetwork(t, 1, Config{Gone: func(*Port) { gone++ }})
	if _, err := n.bridge.Add(eof{n.devs[0], 1 << 10}, you); err != nil {
		t.Fatal(err)
	}
	n.poller.Ready(1<<10, unix.EPOLLIN)
	n.turn()
	if gone != 1 {
		t.Errorf("%d ports are gone", gone)
	}
}

type eof struct {
	*testnet.Device
	fd int
}

func (e eof) FD() int                              { return e.fd }
func (e eof) Readv([]unix.Iovec) (int, unix.Errno) { return 0, 0 }

// A port may be removed while it is read, and while it is written to.
func TestRemoveWithinABatch(t *testing.T) {
	n := newNetwork(t, 3, Config{})
	frame := udp(0, you.MAC, at(me.IPv4, 9), at(you.IPv4, 9))
	n.reader.during = func() { n.bridge.Remove(n.ports[0]) }
	for range 3 {
		n.devs[0].Inject(frame)
	}
	n.turn()
	if got := len(n.devs[1].Sent()); got != 1 || n.devs[0].Waiting() != 2 {
		t.Errorf("the sender was removed after the first frame: %d arrived, %d wait", got, n.devs[0].Waiting())
	}
	n.reader.during = func() { n.bridge.Remove(n.ports[1]) }
	frame = udp(2, you.MAC, at(member(2).IPv4, 9), at(you.IPv4, 9))
	for range 3 {
		n.devs[2].Inject(frame)
	}
	n.turn()
	if got := len(n.devs[1].Sent()); got != 1 || n.devs[2].Waiting() != 0 {
		t.Errorf("the receiver was removed after the first frame: %d arrived, %d wait", got, n.devs[2].Waiting())
	}
	if errno := n.write(ethernet(n.plan.MAC, you.MAC, frame)); errno != unix.EHOSTUNREACH {
		t.Errorf("the stack's frame to a removed port: %v", errno)
	}
}

// slow is a device in which a write takes until it is told.
type slow struct {
	*testnet.Device
	entered, release chan struct{}
}

func (s *slow) Writev([]unix.Iovec) (int, unix.Errno) {
	close(s.entered)
	<-s.release
	return 0, unix.EIO
}

// When Remove returns, the device's descriptor may be closed, and its number be
// another's: nobody must be about to write.
func TestRemoveWaitsForWriters(t *testing.T) {
	n := newNetwork(t, 0, Config{})
	dev := &slow{testnet.NewDevice(t, testnet.DeviceConfig{Offload: true}), make(chan struct{}), make(chan struct{})}
	p, err := n.bridge.Add(dev, me)
	if err != nil {
		t.Fatal(err)
	}
	written := make(chan struct{})
	go func() {
		defer close(written)
		n.write(udp(0, me.MAC, at(n.plan.Gateway, 9), at(me.IPv4, 9)))
	}()
	<-dev.entered
	removed := make(chan struct{})
	go func() {
		defer close(removed)
		n.bridge.Remove(p)
	}()
	select {
	case <-removed:
		t.Error("removed while it is written to")
	case <-time.After(50 * time.Millisecond):
	}
	close(dev.release)
	<-removed
	<-written
}

func TestLookup(t *testing.T) {
	n := newNetwork(t, 2, Config{})
	for _, a := range []netip.Addr{you.IPv4, you.IPv6, you.slaac("fd00::/64"), you.slaac("fe80::/64")} {
		if mac, ok := n.bridge.Lookup(a); !ok || mac != you.MAC {
			t.Errorf("%v is at %x, %v", a, mac, ok)
		}
	}
	for _, a := range []netip.Addr{n.plan.Gateway, n.plan.Gateway6, member(2).IPv4, netip.MustParseAddr("fe80::abcd"), {}} {
		if mac, ok := n.bridge.Lookup(a); ok {
			t.Errorf("%v is at %x", a, mac)
		}
	}
}

// Members that could not be told apart, or could not take each other's frames, are
// refused with the reason.
func TestAddRefuses(t *testing.T) {
	n := newNetwork(t, 1, Config{})
	plan := n.plan
	offload := testnet.DeviceConfig{Offload: true}
	with := func(change func(*Address)) Address { a := you; change(&a); return a }
	for name, tc := range map[string]struct {
		device testnet.DeviceConfig
		addr   Address
		reason string
	}{
		"bare frames":               {testnet.DeviceConfig{}, you, "virtio-net header"},
		"no offloads":               {testnet.DeviceConfig{VNetHdr: true}, you, "offloads"},
		"a MAC that is taken":       {offload, with(func(a *Address) { a.MAC = me.MAC }), "another member has 52560a000265"},
		"an IPv4 that is taken":     {offload, with(func(a *Address) { a.IPv4 = me.IPv4 }), "another member has 10.0.2.101"},
		"an IPv6 that is taken":     {offload, with(func(a *Address) { a.IPv6 = me.IPv6 }), "another member has fd00::65"},
		"another's SLAAC":           {offload, with(func(a *Address) { a.IPv6 = me.slaac("fd00::/64") }), "another member has fd00::"},
		"the gateway's MAC":         {offload, with(func(a *Address) { a.MAC = plan.MAC }), "not an Ethernet address"},
		"no MAC":                    {offload, with(func(a *Address) { a.MAC = [6]byte{} }), "not an Ethernet address"},
		"a multicast MAC":           {offload, with(func(a *Address) { a.MAC[0] |= 1 }), "not an Ethernet address"},
		"the gateway's IPv4":        {offload, with(func(a *Address) { a.IPv4 = plan.Gateway }), "gateway's"},
		"the gateway's IPv6":        {offload, with(func(a *Address) { a.IPv6 = plan.Gateway6 }), "gateway's"},
		"no IPv4":                   {offload, with(func(a *Address) { a.IPv4 = netip.Addr{} }), "not of the subnet 10.0.2.0/24"},
		"an IPv4 of another subnet": {offload, with(func(a *Address) { a.IPv4 = outside4 }), "not of the subnet 10.0.2.0/24"},
		"an IPv6 of another subnet": {offload, with(func(a *Address) { a.IPv6 = outside6 }), "not of the subnet fd00::/64"},
	} {
		_, err := n.bridge.Add(testnet.NewDevice(t, tc.device), tc.addr)
		if err == nil || !strings.Contains(err.Error(), tc.reason) {
			t.Errorf("%s: %v, want something of %q", name, err, tc.reason)
		}
	}
	if got := n.send(0, udp(0, broadcast, at(me.IPv4, 9), at(everybody4, 9))); !same(got, map[int]int{stackItself: 1}) {
		t.Errorf("after refusals a broadcast was got by %v", got)
	}
}

func TestUSOIsOfAllDevicesOrNone(t *testing.T) {
	n := newNetwork(t, 0, Config{USO: true})
	if !n.bridge.USO() {
		t.Error("the stack is not told")
	}
	if _, err := n.bridge.Add(testnet.NewDevice(t, testnet.DeviceConfig{Offload: true}), me); err == nil || !strings.Contains(err.Error(), "super-datagrams") {
		t.Errorf("a device without: %v", err)
	}
	if _, err := n.bridge.Add(testnet.NewDevice(t, testnet.DeviceConfig{USO: true}), me); err != nil {
		t.Error(err)
	}
}

// treadmill is a device from which the same frame comes again and again.
type treadmill struct {
	stack.Device // whose other methods serve
	fd           int
	frame        []byte
	left         int
	written      int
}

func (d *treadmill) FD() int { return d.fd }

func (d *treadmill) Readv(iov []unix.Iovec) (int, unix.Errno) {
	if d.left == 0 {
		return 0, unix.EAGAIN
	}
	d.left--
	n := 0
	for i := range iov {
		n += copy(sockio.Bytes(&iov[i]), d.frame[n:])
	}
	return n, 0
}

func (d *treadmill) Writev([]unix.Iovec) (int, unix.Errno) { d.written++; return 60, 0 }

// newTreadmill has two members of treadmills, of which the first sends a frame.
func newTreadmill(t testing.TB, frame []byte) (*network, *treadmill, *treadmill) {
	n := newNetwork(t, 0, Config{})
	var devs [2]*treadmill
	for i := range devs {
		devs[i] = &treadmill{Device: testnet.NewDevice(t, testnet.DeviceConfig{Offload: true}), fd: 1000 + i}
		if _, err := n.bridge.Add(devs[i], member(i)); err != nil {
			t.Fatal(err)
		}
	}
	devs[0].frame = append(make([]byte, header.VirtioNetHeaderSize), frame...)
	n.bridge.current = n.bridge.table.Load().ports[0]
	return n, devs[0], devs[1]
}

// Forwarding takes no memory, whatever the frame.
func TestForwardingAllocatesNothing(t *testing.T) {
	gateway := addressingtest.New(t)
	for name, frame := range map[string][]byte{
		"IPv4":       udp(0, you.MAC, at(me.IPv4, 9), at(you.IPv4, 9)),
		"IPv6":       udp(0, you.MAC, at(me.IPv6, 9), at(you.IPv6, 9)),
		"large":      ethernet(me.MAC, you.MAC, testnet.UDP(at(me.IPv4, 9), at(you.IPv4, 9), 64, make([]byte, 60000))),
		"ARP":        testnet.ARP(1, me.MAC, me.IPv4, [6]byte{}, you.IPv4),
		"NDP":        solicitation(0, me.IPv6, you.IPv6, linkLayer(1, me.MAC)...),
		"flood":      udp(0, broadcast, at(me.IPv4, 9), at(everybody4, 9)),
		"to gateway": udp(0, gateway.MAC, at(me.IPv4, 9), at(outside4, 9)),
		"spoofed":    udp(0, you.MAC, at(outside4, 9), at(you.IPv4, 9)),
	} {
		n, from, to := newTreadmill(t, frame)
		step := func() {
			from.left = 1
			n.bridge.Readv(n.reader.iov)
			n.bridge.Writev(n.reader.iov)
		}
		if got := testing.AllocsPerRun(100, step); got > 0 {
			t.Errorf("%s: %v allocations", name, got)
		}
		if from.left > 0 || to.written == 0 && name != "to gateway" {
			t.Errorf("%s: %d left, %d written", name, from.left, to.written)
		}
	}
}

func BenchmarkForward(b *testing.B) {
	for name, frame := range map[string][]byte{
		"IPv4": udp(0, you.MAC, at(me.IPv4, 9), at(you.IPv4, 9)),
		"IPv6": udp(0, you.MAC, at(me.IPv6, 9), at(you.IPv6, 9)),
	} {
		b.Run(name, func(b *testing.B) {
			n, from, _ := newTreadmill(b, frame)
			b.ReportAllocs()
			for b.Loop() {
				from.left = 1
				n.bridge.Readv(n.reader.iov)
			}
		})
	}
}
