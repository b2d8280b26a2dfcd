package forwardertest

import (
	"context"
	"fmt"
	"net"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	gvisor "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"

	"epiphyte/internal/addressing"
)

const nicID tcpip.NICID = 1

// Guest is a netstack at the guest's end of a device, configured as -c would.
type Guest struct {
	// Stack may be used for what the methods do not offer.
	Stack *gvisor.Stack
	// Addr and Addr6 are the guest's addresses; Addr6 is not valid if the plan
	// has no IPv6.
	Addr, Addr6 netip.Addr
	port        *Port
	link        *link
}

// NewGuest starts a guest on the port. It reads all frames from then on.
func NewGuest(port *Port, p addressing.Plan, mtu int) (*Guest, error) {
	g := &Guest{port: port, Addr: p.Guest}
	g.Stack = gvisor.New(gvisor.Options{
		NetworkProtocols: []gvisor.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol, arp.NewProtocol},
		TransportProtocols: []gvisor.TransportProtocolFactory{
			tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6,
		},
	})
	if err := g.configure(p, mtu); err != nil {
		g.Close()
		return nil, err
	}
	return g, nil
}

func (g *Guest) configure(p addressing.Plan, mtu int) error {
	g.link = &link{port: g.port, mtu: uint32(mtu)}
	if err := g.Stack.CreateNIC(nicID, g.link); err != nil {
		return fmt.Errorf("create guest's NIC: %v", err)
	}
	routes := []tcpip.Route{{Destination: header.IPv4EmptySubnet, Gateway: tcpipAddr(p.Gateway), NIC: nicID}}
	addrs := []netip.Prefix{netip.PrefixFrom(p.Guest, p.Prefix.Bits())}
	if p.IPv6() {
		b := p.Prefix6.Addr().As16()
		b[15] = 0x64
		g.Addr6 = netip.AddrFrom16(b)
		addrs = append(addrs, netip.PrefixFrom(g.Addr6, p.Prefix6.Bits()))
		routes = append(routes, tcpip.Route{Destination: header.IPv6EmptySubnet, Gateway: tcpipAddr(p.Gateway6), NIC: nicID})
	}
	for _, a := range addrs {
		pa := tcpip.ProtocolAddress{
			Protocol:          protocol(a.Addr()),
			AddressWithPrefix: tcpip.AddressWithPrefix{Address: tcpipAddr(a.Addr()), PrefixLen: a.Bits()},
		}
		if err := g.Stack.AddProtocolAddress(nicID, pa, gvisor.AddressProperties{}); err != nil {
			return fmt.Errorf("add guest's address %v: %v", a, err)
		}
		routes = append([]tcpip.Route{{Destination: pa.AddressWithPrefix.Subnet(), NIC: nicID}}, routes...)
	}
	g.Stack.SetRouteTable(routes)
	return nil
}

func protocol(a netip.Addr) tcpip.NetworkProtocolNumber {
	if a.Is4() {
		return header.IPv4ProtocolNumber
	}
	return header.IPv6ProtocolNumber
}

func fullAddress(a netip.AddrPort) tcpip.FullAddress {
	return tcpip.FullAddress{NIC: nicID, Addr: tcpipAddr(a.Addr()), Port: a.Port()}
}

// Conn is a TCP connection of the guest.
type Conn struct {
	*gonet.TCPConn
	ep tcpip.Endpoint
}

// DialTCP connects from the guest. An error of the connection itself is a
// *net.OpError with gVisor's words for the errno.
func (g *Guest) DialTCP(ctx context.Context, to netip.AddrPort) (*Conn, error) {
	wq := new(waiter.Queue)
	ep, terr := g.Stack.NewEndpoint(tcp.ProtocolNumber, protocol(to.Addr()), wq)
	if terr != nil {
		return nil, fmt.Errorf("make guest's endpoint: %v", terr)
	}
	entry, ready := waiter.NewChannelEntry(waiter.WritableEvents | waiter.EventErr | waiter.EventHUp)
	wq.EventRegister(&entry)
	defer wq.EventUnregister(&entry)
	terr = ep.Connect(fullAddress(to))
	if _, started := terr.(*tcpip.ErrConnectStarted); started {
		select {
		case <-ctx.Done():
			ep.Abort()
			ep.Close()
			return nil, ctx.Err()
		case <-ready:
		}
		terr = ep.LastError()
	}
	if terr != nil {
		ep.Close()
		return nil, &net.OpError{Op: "connect", Net: "tcp", Addr: net.TCPAddrFromAddrPort(to), Err: fmt.Errorf("%v", terr)}
	}
	return &Conn{TCPConn: gonet.NewTCPConn(wq, ep), ep: ep}, nil
}

// Reset ends the connection with a RST, as a process killed with unread data
// does.
func (c *Conn) Reset() {
	c.ep.Abort()
	c.ep.Close()
}

// SetReceiveBuffer bounds what the guest takes without reading, in bytes.
func (c *Conn) SetReceiveBuffer(n int) { c.ep.SocketOptions().SetReceiveBufferSize(int64(n), true) }

// DialUDP opens a UDP socket of the guest on the given port (zero: any). With
// a valid to it is connected, and told of ICMP errors.
func (g *Guest) DialUDP(port uint16, to netip.AddrPort, v6 bool) (*gonet.UDPConn, error) {
	local := fullAddress(netip.AddrPortFrom(g.Addr, port))
	proto := header.IPv4ProtocolNumber
	if v6 {
		local = fullAddress(netip.AddrPortFrom(g.Addr6, port))
		proto = header.IPv6ProtocolNumber
	}
	if !to.IsValid() {
		return gonet.DialUDP(g.Stack, &local, nil, proto)
	}
	remote := fullAddress(to)
	return gonet.DialUDP(g.Stack, &local, &remote, proto)
}

// Close ends the netstack with all its connections. The port stays open.
func (g *Guest) Close() {
	if g.link != nil {
		g.link.stop()
	}
	g.Stack.Destroy()
}
