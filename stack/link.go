package stack

import (
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	gvisor "gvisor.dev/gvisor/pkg/tcpip/stack"

	"epiphyte/internal/sockio"
)

// gsoMax is the largest super-segment that gVisor may build, headers included:
// the most that IP's length field can express. Half of it costs a quarter of the
// throughput towards the guest.
const gsoMax = 65535

// link is gVisor's view of the device. gVisor's fdbased endpoint cannot serve:
// it enables segmentation offload only on sockets, and its channel endpoint
// drops when full.
type link struct {
	dev     Device
	offload bool
	vnet    bool
	mtu     uint32
	mac     [6]byte
	neigh   *neighbors
	disp    gvisor.NetworkDispatcher
	written written
	scratch sync.Pool // *writeScratch: segments leave from timers and processors too

	followed atomic.Pointer[Conn] // the one that the shard's thread works on; see ack.go
}

type writeScratch struct {
	hdr virtioHdr
	iov [maxFrameViews + 2]unix.Iovec // with the header and the rest
}

// maxFrameViews bounds the pieces of a frame that are written as they are. A
// super-segment that was read from a socket is one chunk behind a header. What
// gVisor merges from many small writes, when the guest's window was closed for
// a while, may be thousands: the rest of them is copied into one.
const maxFrameViews = 64

var _ gvisor.LinkEndpoint = (*link)(nil)
var _ gvisor.GSOEndpoint = (*link)(nil)

func (l *link) MTU() uint32                             { return l.mtu }
func (l *link) SetMTU(mtu uint32)                       { l.mtu = mtu }
func (l *link) MaxHeaderLength() uint16                 { return header.EthernetMinimumSize }
func (l *link) LinkAddress() tcpip.LinkAddress          { return tcpip.LinkAddress(l.mac[:]) }
func (l *link) SetLinkAddress(tcpip.LinkAddress)        {}
func (l *link) Attach(d gvisor.NetworkDispatcher)       { l.disp = d }
func (l *link) IsAttached() bool                        { return l.disp != nil }
func (l *link) Wait()                                   {}
func (l *link) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareEther }
func (l *link) ParseHeader(*gvisor.PacketBuffer) bool   { return true }
func (l *link) Close()                                  {}
func (l *link) SetOnCloseAction(func())                 {}
func (l *link) GSOMaxSize() uint32                      { return gsoMax }

// Capabilities claims checksum offload for reception only. Claiming it for
// transmission too would make gVisor send segments that are not subject to
// segmentation, the SYN-ACK among them, with no checksum at all.
func (l *link) Capabilities() gvisor.LinkEndpointCapabilities {
	if l.offload {
		return gvisor.CapabilityRXChecksumOffload
	}
	return 0
}

func (l *link) SupportedGSO() gvisor.SupportedGSO {
	if l.offload {
		return gvisor.HostGSOSupported
	}
	return gvisor.GVisorGSOSupported // cut here, but at the last moment: twice as fast at MTU 1500
}

func (l *link) AddHeader(pkt *gvisor.PacketBuffer) {
	h := pkt.LinkHeader().Push(header.EthernetMinimumSize)
	_, dst := addresses(pkt)
	mac := l.neigh.lookup(dst)
	putEthernet(h, l.mac, mac, pkt.NetworkProtocolNumber)
}

func (l *link) WritePackets(pkts gvisor.PacketBufferList) (int, tcpip.Error) {
	n := 0
	for _, pkt := range pkts.AsSlice() {
		if c := l.followed.Load(); c == nil || !c.intercept(pkt) {
			l.writePacket(pkt)
		}
		n++
	}
	return n, nil
}

// writePacket writes one segment. What the device refuses (it is down, or out
// of memory) is lost as on any link: TCP sends it again.
func (l *link) writePacket(pkt *gvisor.PacketBuffer) {
	w, _ := l.scratch.Get().(*writeScratch)
	if w == nil {
		w = new(writeScratch)
	}
	iov := w.iov[:0]
	if l.vnet {
		w.hdr = segmentHdr(pkt)
		iov = append(iov, w.hdr.vec())
	}
	var rest []byte
	views, skip := pkt.AsViewList()
	for v := views.Front(); v != nil; v = v.Next() {
		b := v.AsSlice()
		if skip >= len(b) {
			skip -= len(b)
			continue
		}
		b, skip = b[skip:], 0
		if len(iov) <= maxFrameViews {
			iov = append(iov, sockio.Vec(b))
		} else {
			rest = append(rest, b...)
		}
	}
	if len(rest) > 0 {
		iov = append(iov, sockio.Vec(rest))
	}
	_, errno := l.dev.Writev(iov)
	l.written.count(pkt.Size(), errno != 0)
	runtime.KeepAlive(pkt)
	l.scratch.Put(w)
}

// segmentHdr describes the segment to the guest's kernel. A segment that may
// be cut carries a partial checksum, which is why gVisor computed none.
func segmentHdr(pkt *gvisor.PacketBuffer) (h virtioHdr) {
	g := &pkt.GSOOptions
	if g.Type == gvisor.GSONone {
		return h
	}
	h.hdrLen = uint16(pkt.HeaderSize())
	if g.NeedsCsum {
		h.flags = virtioNeedsCsum
		h.csumStart = header.EthernetMinimumSize + g.L3HdrLen
		h.csumOffset = g.CsumOffset
	}
	if pkt.Data().Size() > int(g.MSS) {
		h.gsoSize = g.MSS
		h.gsoType = virtioGSOTCPv4
		if g.Type == gvisor.GSOTCPv6 {
			h.gsoType = virtioGSOTCPv6
		}
	}
	return h
}
