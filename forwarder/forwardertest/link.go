package forwardertest

import (
	"encoding/binary"
	"sync"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	gvisor "gvisor.dev/gvisor/pkg/tcpip/stack"
)

// link is the guest's network interface. gVisor's own endpoint for descriptors
// leaves an eventfd open for each dispatcher, which a test of leaks would see.
type link struct {
	port *Port
	mtu  uint32
	disp gvisor.NetworkDispatcher
	wg   sync.WaitGroup
}

var _ gvisor.LinkEndpoint = (*link)(nil)
var _ gvisor.GSOEndpoint = (*link)(nil)

func (l *link) MTU() uint32                             { return l.mtu }
func (l *link) SetMTU(mtu uint32)                       { l.mtu = mtu }
func (l *link) MaxHeaderLength() uint16                 { return header.EthernetMinimumSize }
func (l *link) SetLinkAddress(tcpip.LinkAddress)        {}
func (l *link) IsAttached() bool                        { return l.disp != nil }
func (l *link) Wait()                                   {}
func (l *link) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareEther }
func (l *link) ParseHeader(*gvisor.PacketBuffer) bool   { return true }
func (l *link) Close()                                  {}
func (l *link) SetOnCloseAction(func())                 {}
func (l *link) GSOMaxSize() uint32                      { return 65535 }

func (l *link) LinkAddress() tcpip.LinkAddress {
	mac := GuestMAC()
	return tcpip.LinkAddress(mac[:])
}

func (l *link) Capabilities() gvisor.LinkEndpointCapabilities {
	c := gvisor.LinkEndpointCapabilities(gvisor.CapabilityResolutionRequired)
	if l.port.vnet {
		c |= gvisor.CapabilityRXChecksumOffload
	}
	return c
}

func (l *link) SupportedGSO() gvisor.SupportedGSO {
	if l.port.vnet {
		return gvisor.HostGSOSupported
	}
	return gvisor.GSONotSupported
}

func (l *link) AddHeader(pkt *gvisor.PacketBuffer) {
	header.Ethernet(pkt.LinkHeader().Push(header.EthernetMinimumSize)).Encode(&header.EthernetFields{
		SrcAddr: pkt.EgressRoute.LocalLinkAddress,
		DstAddr: pkt.EgressRoute.RemoteLinkAddress,
		Type:    pkt.NetworkProtocolNumber,
	})
}

// Attach starts to read.
func (l *link) Attach(d gvisor.NetworkDispatcher) {
	l.disp = d
	if d != nil {
		l.wg.Add(1)
		go l.readAll()
	}
}

// stop ends the reader. It comes before the netstack's end, which holds locks
// that the reader may want.
func (l *link) stop() {
	unix.Shutdown(l.port.fd, unix.SHUT_RD)
	l.wg.Wait()
}

func (l *link) readAll() {
	defer l.wg.Done()
	prefix := 0
	if l.port.vnet {
		prefix = virtioHdrLen
	}
	buf := make([]byte, 1<<17)
	poll := []unix.PollFd{{Fd: int32(l.port.fd), Events: unix.POLLIN}}
	for {
		n, err := unix.Read(l.port.fd, buf)
		switch {
		case err == unix.EAGAIN:
			unix.Poll(poll, -1)
			continue
		case err == unix.EINTR:
			continue
		case err != nil || n == 0:
			return
		case n < prefix+header.EthernetMinimumSize:
			continue
		}
		frame := buf[prefix:n]
		proto := tcpip.NetworkProtocolNumber(binary.BigEndian.Uint16(frame[12:]))
		pkt := gvisor.NewPacketBuffer(gvisor.PacketBufferOptions{
			Payload: buffer.MakeWithData(frame[header.EthernetMinimumSize:]),
		})
		pkt.RXChecksumValidated = l.port.vnet
		l.disp.DeliverNetworkPacket(proto, pkt)
		pkt.DecRef()
	}
}

// WritePackets loses what the device has no room for, as a TAP's queue does.
func (l *link) WritePackets(pkts gvisor.PacketBufferList) (int, tcpip.Error) {
	for _, pkt := range pkts.AsSlice() {
		var iov [][]byte
		if l.port.vnet {
			iov = append(iov, virtioHeader(pkt))
		}
		unix.Writev(l.port.fd, append(iov, pkt.AsSlices()...))
	}
	return pkts.Len(), nil
}

// virtioHeader describes a segment as a guest's kernel does.
func virtioHeader(pkt *gvisor.PacketBuffer) []byte {
	le := binary.LittleEndian
	h := make([]byte, virtioHdrLen)
	g := &pkt.GSOOptions
	if g.Type == gvisor.GSONone {
		return h
	}
	le.PutUint16(h[2:], uint16(pkt.HeaderSize()))
	if g.NeedsCsum {
		h[0] = 1
		le.PutUint16(h[6:], header.EthernetMinimumSize+g.L3HdrLen)
		le.PutUint16(h[8:], g.CsumOffset)
	}
	if pkt.Data().Size() > int(g.MSS) {
		h[1] = 1 // VIRTIO_NET_HDR_GSO_TCPV4
		if g.Type == gvisor.GSOTCPv6 {
			h[1] = 4
		}
		le.PutUint16(h[4:], g.MSS)
	}
	return h
}
