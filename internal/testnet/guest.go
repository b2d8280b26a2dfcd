package testnet

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

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

const (
	// timeWait of the guest's own connections, so that tests need not wait.
	timeWait = 100 * time.Millisecond
	// lingerTimeout is how long a closed connection waits for the other end,
	// whose RST may have been lost: a few retransmissions, and less than tests
	// have patience for. gVisor's default is a minute.
	lingerTimeout = 15 * time.Second
)

// Guest is a netstack at the guest's end of a device, configured as -c would.
type Guest struct {
	// Stack may be used for what the methods do not offer.
	Stack *gvisor.Stack
	// Addr and Addr6 are the guest's addresses; Addr6 is not valid if the plan
	// has no IPv6.
	Addr, Addr6 netip.Addr
	dev         *Device
}

// NewGuest attaches a guest to the device until the test ends. It takes all
// that the stack sends.
func NewGuest(t testing.TB, dev *Device, p addressing.Plan, mtu int) *Guest {
	t.Helper()
	g := &Guest{dev: dev, Addr: p.Guest}
	g.Stack = gvisor.New(gvisor.Options{
		NetworkProtocols: []gvisor.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol, arp.NewProtocol},
		TransportProtocols: []gvisor.TransportProtocolFactory{
			tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6,
		},
	})
	t.Cleanup(func() {
		dev.OnSend(nil)
		g.Stack.Destroy()
	})
	if err := g.configure(p, mtu); err != nil {
		t.Fatal(err)
	}
	return g
}

func (g *Guest) configure(p addressing.Plan, mtu int) error {
	sack := tcpip.TCPSACKEnabled(true)
	wait, linger := tcpip.TCPTimeWaitTimeoutOption(timeWait), tcpip.TCPLingerTimeoutOption(lingerTimeout)
	for _, o := range []tcpip.SettableTransportProtocolOption{&sack, &wait, &linger} {
		if err := g.Stack.SetTransportProtocolOption(tcp.ProtocolNumber, o); err != nil {
			return fmt.Errorf("set option %T: %v", o, err)
		}
	}
	link := &link{dev: g.dev, mtu: uint32(mtu)}
	if err := g.Stack.CreateNIC(nicID, link); err != nil {
		return fmt.Errorf("create guest's NIC: %v", err)
	}
	routes := []tcpip.Route{{Destination: header.IPv4EmptySubnet, Gateway: tcpipAddr(p.Gateway), NIC: nicID}}
	addrs := []netip.Prefix{netip.PrefixFrom(p.Guest, p.Prefix.Bits())}
	if p.IPv6() {
		g.Addr6 = p.Guest6
		addrs = append(addrs, netip.PrefixFrom(g.Addr6, p.Prefix6.Bits()))
		routes = append(routes, tcpip.Route{Destination: header.IPv6EmptySubnet, Gateway: tcpipAddr(p.Gateway6), NIC: nicID})
	}
	for _, a := range addrs {
		pa := tcpip.ProtocolAddress{
			Protocol:          protocol(a.Addr().Is6()),
			AddressWithPrefix: tcpip.AddressWithPrefix{Address: tcpipAddr(a.Addr()), PrefixLen: a.Bits()},
		}
		if err := g.Stack.AddProtocolAddress(nicID, pa, gvisor.AddressProperties{}); err != nil {
			return fmt.Errorf("add guest's address %v: %v", a, err)
		}
		routes = append([]tcpip.Route{{Destination: pa.AddressWithPrefix.Subnet(), NIC: nicID}}, routes...)
	}
	g.Stack.SetRouteTable(routes)
	g.dev.OnSend(link.receive)
	return nil
}

func protocol(v6 bool) tcpip.NetworkProtocolNumber {
	if v6 {
		return header.IPv6ProtocolNumber
	}
	return header.IPv4ProtocolNumber
}

// local is the guest's own address of a family and a port.
func (g *Guest) local(port uint16, v6 bool) tcpip.FullAddress {
	if v6 {
		return fullAddress(netip.AddrPortFrom(g.Addr6, port))
	}
	return fullAddress(netip.AddrPortFrom(g.Addr, port))
}

func fullAddress(a netip.AddrPort) tcpip.FullAddress {
	return tcpip.FullAddress{NIC: nicID, Addr: tcpipAddr(a.Addr()), Port: a.Port()}
}

// Conn is a TCP connection of the guest.
type Conn struct {
	*gonet.TCPConn
	ep tcpip.Endpoint
}

// DialTCP connects from the guest, by the given port of its own (zero: any).
// When ctx ends meanwhile, the attempt ends without a word to the other end.
// An error of the connection itself is a *net.OpError with gVisor's words for
// the errno.
func (g *Guest) DialTCP(ctx context.Context, port uint16, to netip.AddrPort) (*Conn, error) {
	wq := new(waiter.Queue)
	ep, terr := g.Stack.NewEndpoint(tcp.ProtocolNumber, protocol(to.Addr().Is6()), wq)
	if terr != nil {
		return nil, fmt.Errorf("make guest's endpoint: %v", terr)
	}
	entry, ready := waiter.NewChannelEntry(waiter.WritableEvents | waiter.EventErr | waiter.EventHUp)
	wq.EventRegister(&entry)
	defer wq.EventUnregister(&entry)
	if port != 0 {
		ep.SocketOptions().SetReuseAddress(true)
		if terr := ep.Bind(g.local(port, to.Addr().Is6())); terr != nil {
			ep.Close()
			return nil, fmt.Errorf("bind guest's port %d: %v", port, terr)
		}
	}
	terr = ep.Connect(fullAddress(to))
	if _, started := terr.(*tcpip.ErrConnectStarted); started {
		select {
		case <-ctx.Done():
			ep.Abort()
			ep.Close()
			return nil, context.Cause(ctx)
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

// ListenTCP opens a server on the guest's port, of one family.
func (g *Guest) ListenTCP(port uint16, v6 bool) (*gonet.TCPListener, error) {
	return gonet.ListenTCP(g.Stack, g.local(port, v6), protocol(v6))
}

// DialUDP opens a UDP socket of the guest on the given port (zero: any). With
// a valid to it is connected, and told of ICMP errors.
func (g *Guest) DialUDP(port uint16, to netip.AddrPort, v6 bool) (*gonet.UDPConn, error) {
	local := g.local(port, v6)
	if !to.IsValid() {
		return gonet.DialUDP(g.Stack, &local, nil, protocol(v6))
	}
	remote := fullAddress(to)
	return gonet.DialUDP(g.Stack, &local, &remote, protocol(v6))
}

// States lists the states of the guest's TCP endpoints in TCP's own words
// ("FIN-WAIT2"), those in TIME-WAIT included.
func (g *Guest) States() (states []string) {
	for _, ep := range g.Stack.RegisteredEndpoints() {
		if ep, ok := ep.(*tcp.Endpoint); ok {
			states = append(states, ep.EndpointState().String())
		}
	}
	return states
}
