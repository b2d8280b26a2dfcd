package testnet

import (
	"encoding/binary"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

const vnetHdrLen = header.VirtioNetHeaderSize

// VNetHdr is struct virtio_net_hdr of linux/virtio_net.h.
type VNetHdr struct {
	Flags, GSOType                         uint8
	HdrLen, GSOSize, CsumStart, CsumOffset uint16
}

// Bits and types of VNetHdr.
const (
	NeedsCsum = 1
	DataValid = 2
	GSOTCPv4  = 1
	GSOTCPv6  = 4
	GSOUDPL4  = 5
)

func (h VNetHdr) append(b []byte) []byte {
	b = append(b, h.Flags, h.GSOType)
	b = binary.LittleEndian.AppendUint16(b, h.HdrLen)
	b = binary.LittleEndian.AppendUint16(b, h.GSOSize)
	b = binary.LittleEndian.AppendUint16(b, h.CsumStart)
	return binary.LittleEndian.AppendUint16(b, h.CsumOffset)
}

func parseVNetHdr(b []byte) VNetHdr {
	return VNetHdr{
		Flags: b[0], GSOType: b[1],
		HdrLen:     binary.LittleEndian.Uint16(b[2:]),
		GSOSize:    binary.LittleEndian.Uint16(b[4:]),
		CsumStart:  binary.LittleEndian.Uint16(b[6:]),
		CsumOffset: binary.LittleEndian.Uint16(b[8:]),
	}
}

// Frame is one Ethernet frame.
type Frame struct {
	VNet VNetHdr // zero on a device without the header
	Data []byte  // from the Ethernet header on
}
