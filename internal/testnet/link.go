package testnet

import (
	"encoding/binary"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	gvisor "gvisor.dev/gvisor/pkg/tcpip/stack"
)

// link is the guest's network interface.
type link struct {
	dev  *Device
	mtu  uint32
	disp gvisor.NetworkDispatcher
}

var _ gvisor.GSOEndpoint = (*link)(nil)

func (l *link) MTU() uint32                             { return l.mtu }
func (l *link) SetMTU(mtu uint32)                       { l.mtu = mtu }
func (l *link) MaxHeaderLength() uint16                 { return ethLen }
func (l *link) SetLinkAddress(tcpip.LinkAddress)        {}
func (l *link) Attach(d gvisor.NetworkDispatcher)       { l.disp = d }
func (l *link) IsAttached() bool                        { return l.disp != nil }
func (l *link) Wait()                                   {}
func (l *link) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareEther }
func (l *link) ParseHeader(*gvisor.PacketBuffer) bool   { return true }
func (l *link) Close()                                  {}
func (l *link) SetOnCloseAction(func())                 {}
func (l *link) GSOMaxSize() uint32                      { return 65535 }

func (l *link) LinkAddress() tcpip.LinkAddress {
	mac := l.dev.HardwareAddr()
	return tcpip.LinkAddress(mac[:])
}

func (l *link) Capabilities() gvisor.LinkEndpointCapabilities {
	c := gvisor.LinkEndpointCapabilities(gvisor.CapabilityResolutionRequired)
	if l.dev.cfg.Offload {
		c |= gvisor.CapabilityRXChecksumOffload
	}
	return c
}

func (l *link) SupportedGSO() gvisor.SupportedGSO {
	if l.dev.cfg.Offload {
		return gvisor.HostGSOSupported
	}
	return gvisor.GSONotSupported
}

func (l *link) AddHeader(pkt *gvisor.PacketBuffer) {
	header.Ethernet(pkt.LinkHeader().Push(ethLen)).Encode(&header.EthernetFields{
		SrcAddr: pkt.EgressRoute.LocalLinkAddress,
		DstAddr: pkt.EgressRoute.RemoteLinkAddress,
		Type:    pkt.NetworkProtocolNumber,
	})
}

// receive hands a frame from the stack to the guest's netstack.
func (l *link) receive(f Frame) {
	proto := tcpip.NetworkProtocolNumber(binary.BigEndian.Uint16(f.Data[12:]))
	pkt := gvisor.NewPacketBuffer(gvisor.PacketBufferOptions{Payload: buffer.MakeWithData(f.Data[ethLen:])})
	pkt.NetworkProtocolNumber = proto
	pkt.RXChecksumValidated = f.VNet.Flags&(NeedsCsum|DataValid) != 0
	l.disp.DeliverNetworkPacket(proto, pkt)
	pkt.DecRef()
}

// WritePackets loses what the device has no room for, as a TAP's queue does.
func (l *link) WritePackets(pkts gvisor.PacketBufferList) (int, tcpip.Error) {
	for _, pkt := range pkts.AsSlice() {
		view := pkt.ToView()
		l.dev.InjectVNet(virtioHeader(pkt), view.AsSlice())
		view.Release()
	}
	return pkts.Len(), nil
}

// virtioHeader describes a segment as a guest's kernel does.
func virtioHeader(pkt *gvisor.PacketBuffer) (h VNetHdr) {
	g := &pkt.GSOOptions
	if g.Type == gvisor.GSONone {
		return h
	}
	h.HdrLen = uint16(pkt.HeaderSize())
	if g.NeedsCsum {
		h.Flags, h.CsumStart, h.CsumOffset = NeedsCsum, ethLen+g.L3HdrLen, g.CsumOffset
	}
	if pkt.Data().Size() > int(g.MSS) {
		h.GSOSize, h.GSOType = g.MSS, GSOTCPv4
		if g.Type == gvisor.GSOTCPv6 {
			h.GSOType = GSOTCPv6
		}
	}
	return h
}
