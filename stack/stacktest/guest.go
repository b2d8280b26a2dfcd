package stacktest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	gvisor "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

const guestNIC tcpip.NICID = 1

// GuestConfig of a Guest. Addresses may be of both families.
type GuestConfig struct {
	Device     *Device
	Addresses  []netip.Addr
	MTU        int // 1500 if zero
	Impairment Impairment
	// TimeWait of the guest's own connections; a tenth of a second if zero, so
	// that tests need not wait for it.
	TimeWait time.Duration
}

// lingerTimeout is how long a closed connection of the guest waits for our end: a
// few retransmissions, and less than tests have patience for.
const lingerTimeout = 15 * time.Second

// Guest is a netstack of its own at the guest's end of a Device.
type Guest struct {
	gv      *gvisor.Stack
	out, in *direction
	dev     *Device
	mtu     int
	disp    gvisor.NetworkDispatcher
}

// NewGuest attaches a guest to the device. It is closed with the test.
func NewGuest(t testing.TB, cfg GuestConfig) *Guest {
	t.Helper()
	g := &Guest{dev: cfg.Device, mtu: cfg.MTU}
	if g.mtu == 0 {
		g.mtu = 1500
	}
	if cfg.TimeWait == 0 {
		cfg.TimeWait = 100 * time.Millisecond
	}
	g.gv = gvisor.New(gvisor.Options{
		NetworkProtocols:   []gvisor.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol},
		TransportProtocols: []gvisor.TransportProtocolFactory{tcp.NewProtocol},
	})
	g.out = newDirection(cfg.Impairment, 1, func(f Frame) { g.dev.InjectVNet(f.VNet, f.Data) })
	g.in = newDirection(cfg.Impairment, 2, g.receive)
	t.Cleanup(func() {
		g.out.close()
		g.in.close()
		g.gv.Destroy()
	})
	sack := tcpip.TCPSACKEnabled(true)
	timeWait := tcpip.TCPTimeWaitTimeoutOption(cfg.TimeWait)
	// A guest that has not heard of the end, since a RST was lost, gives up by
	// itself after a minute otherwise.
	linger := tcpip.TCPLingerTimeoutOption(lingerTimeout)
	for _, o := range []tcpip.SettableTransportProtocolOption{&sack, &timeWait, &linger} {
		if err := g.gv.SetTransportProtocolOption(tcp.ProtocolNumber, o); err != nil {
			t.Fatalf("set option %T: %v", o, err)
		}
	}
	if err := g.gv.CreateNIC(guestNIC, (*guestLink)(g)); err != nil {
		t.Fatalf("create NIC: %v", err)
	}
	for _, a := range cfg.Addresses {
		addr := tcpip.ProtocolAddress{Protocol: netProto(a), AddressWithPrefix: tcpip.AddrFromSlice(a.AsSlice()).WithPrefix()}
		if err := g.gv.AddProtocolAddress(guestNIC, addr, gvisor.AddressProperties{}); err != nil {
			t.Fatalf("add address %v: %v", a, err)
		}
	}
	g.gv.SetRouteTable([]tcpip.Route{
		{Destination: header.IPv4EmptySubnet, NIC: guestNIC},
		{Destination: header.IPv6EmptySubnet, NIC: guestNIC},
	})
	g.dev.OnSend(g.in.pass)
	return g
}

func netProto(a netip.Addr) tcpip.NetworkProtocolNumber {
	if a.Is4() {
		return header.IPv4ProtocolNumber
	}
	return header.IPv6ProtocolNumber
}

// Conn is a TCP connection of the guest.
type Conn struct {
	*gonet.TCPConn
	ep tcpip.Endpoint
}

// Abort resets the connection.
func (c *Conn) Abort() { c.ep.Abort() }

// State is the connection's state in TCP's own words ("FIN-WAIT2").
func (c *Conn) State() string { return tcp.EndpointState(c.ep.State()).String() }

// Dial opens a connection; port is the guest's own, chosen if zero. When ctx
// ends meanwhile the attempt is aborted without a word to the other end.
func (g *Guest) Dial(ctx context.Context, port uint16, to netip.AddrPort) (*Conn, error) {
	var wq waiter.Queue
	ep, err := g.gv.NewEndpoint(tcp.ProtocolNumber, netProto(to.Addr()), &wq)
	if err != nil {
		return nil, fmt.Errorf("make endpoint: %s", err)
	}
	entry, connected := waiter.NewChannelEntry(waiter.WritableEvents)
	wq.EventRegister(&entry)
	defer wq.EventUnregister(&entry)
	ep.SocketOptions().SetReuseAddress(true)
	if port != 0 {
		if err := ep.Bind(tcpip.FullAddress{Port: port}); err != nil {
			ep.Close()
			return nil, fmt.Errorf("bind port %d: %s", port, err)
		}
	}
	err = ep.Connect(tcpip.FullAddress{Addr: tcpip.AddrFromSlice(to.Addr().AsSlice()), Port: to.Port()})
	if _, ok := err.(*tcpip.ErrConnectStarted); ok {
		select {
		case <-connected:
			err = ep.LastError()
		case <-ctx.Done():
			ep.Close()
			return nil, context.Cause(ctx)
		}
	}
	if err != nil {
		ep.Close()
		return nil, fmt.Errorf("connect to %v: %w", to, errors.New(err.String()))
	}
	return &Conn{TCPConn: gonet.NewTCPConn(&wq, ep), ep: ep}, nil
}

// Listen opens a server on the guest's port, of one family.
func (g *Guest) Listen(port uint16, v6 bool) (net.Listener, error) {
	proto := header.IPv4ProtocolNumber
	if v6 {
		proto = header.IPv6ProtocolNumber
	}
	return gonet.ListenTCP(g.gv, tcpip.FullAddress{Port: port}, proto)
}

// Endpoints is the number of TCP endpoints that the guest holds, those in
// TIME-WAIT included.
func (g *Guest) Endpoints() int {
	return len(g.gv.RegisteredEndpoints())
}

// States of the endpoints, for what a test says when some are left.
func (g *Guest) States() (states []string) {
	for _, ep := range g.gv.RegisteredEndpoints() {
		if ep, ok := ep.(*tcp.Endpoint); ok {
			states = append(states, ep.EndpointState().String())
		}
	}
	return states
}

// receive is the guest's end of a frame from the stack.
func (g *Guest) receive(f Frame) {
	if len(f.Data) < ethLen {
		return
	}
	proto := tcpip.NetworkProtocolNumber(f.Data[12])<<8 | tcpip.NetworkProtocolNumber(f.Data[13])
	if proto != header.IPv4ProtocolNumber && proto != header.IPv6ProtocolNumber {
		return
	}
	pkt := gvisor.NewPacketBuffer(gvisor.PacketBufferOptions{Payload: buffer.MakeWithData(f.Data[ethLen:])})
	pkt.NetworkProtocolNumber = proto
	pkt.RXChecksumValidated = f.VNet.Flags&(NeedsCsum|DataValid) != 0
	g.disp.DeliverNetworkPacket(proto, pkt)
	pkt.DecRef()
}

// guestLink is the guest's own link endpoint.
type guestLink Guest

func (l *guestLink) MTU() uint32                             { return uint32(l.mtu) }
func (l *guestLink) SetMTU(uint32)                           {}
func (l *guestLink) MaxHeaderLength() uint16                 { return ethLen }
func (l *guestLink) LinkAddress() tcpip.LinkAddress          { return tcpip.LinkAddress(GuestMAC[:]) }
func (l *guestLink) SetLinkAddress(tcpip.LinkAddress)        {}
func (l *guestLink) Attach(d gvisor.NetworkDispatcher)       { l.disp = d }
func (l *guestLink) IsAttached() bool                        { return l.disp != nil }
func (l *guestLink) Wait()                                   {}
func (l *guestLink) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareEther }
func (l *guestLink) ParseHeader(*gvisor.PacketBuffer) bool   { return true }
func (l *guestLink) Close()                                  {}
func (l *guestLink) SetOnCloseAction(func())                 {}
func (l *guestLink) GSOMaxSize() uint32                      { return 65535 }

func (l *guestLink) Capabilities() gvisor.LinkEndpointCapabilities {
	if l.dev.cfg.Offload {
		return gvisor.CapabilityRXChecksumOffload
	}
	return 0
}

func (l *guestLink) SupportedGSO() gvisor.SupportedGSO {
	if l.dev.cfg.Offload {
		return gvisor.HostGSOSupported
	}
	return gvisor.GSONotSupported
}

func (l *guestLink) AddHeader(pkt *gvisor.PacketBuffer) {
	h := pkt.LinkHeader().Push(ethLen)
	copy(h, []byte{0x52, 0x55, 10, 0, 2, 2})
	copy(h[6:], GuestMAC[:])
	h[12], h[13] = byte(pkt.NetworkProtocolNumber>>8), byte(pkt.NetworkProtocolNumber)
}

func (l *guestLink) WritePackets(pkts gvisor.PacketBufferList) (int, tcpip.Error) {
	for _, pkt := range pkts.AsSlice() {
		view := pkt.ToView()
		f := Frame{Data: append([]byte(nil), view.AsSlice()...)}
		view.Release()
		if g := &pkt.GSOOptions; g.Type != gvisor.GSONone {
			f.VNet.HdrLen = uint16(pkt.HeaderSize())
			if g.NeedsCsum {
				f.VNet.Flags = NeedsCsum
				f.VNet.CsumStart = ethLen + g.L3HdrLen
				f.VNet.CsumOffset = g.CsumOffset
			}
			if pkt.Data().Size() > int(g.MSS) {
				f.VNet.GSOSize, f.VNet.GSOType = g.MSS, GSOTCPv4
				if g.Type == gvisor.GSOTCPv6 {
					f.VNet.GSOType = GSOTCPv6
				}
			}
		}
		l.out.pass(f)
	}
	return pkts.Len(), nil
}
