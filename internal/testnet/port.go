package testnet

import (
	"encoding/binary"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// Port is the guest's end of a Device: it sees frames as a guest's kernel
// hands them on, without virtio-net headers and with whole checksums.
type Port struct{ dev *Device }

// Write sends frames to the stack. It waits for room, as tests of bursts mean
// each of them to arrive.
func (p *Port) Write(frames ...[]byte) error {
	for _, f := range frames {
		if err := p.write(VNetHdr{}, f); err != nil {
			return err
		}
	}
	return nil
}

// WriteSegments sends one frame which, on a device with offload, is a UDP
// super-datagram to be cut into payloads of size bytes, its checksum vouched
// for.
func (p *Port) WriteSegments(size uint16, frame []byte) error {
	h := VNetHdr{Flags: NeedsCsum, GSOType: GSOUDPL4, GSOSize: size, CsumOffset: 6}
	h.CsumStart = header.EthernetMinimumSize + header.IPv4MinimumSize
	if frame[header.EthernetMinimumSize]>>4 == 6 {
		h.CsumStart = header.EthernetMinimumSize + header.IPv6MinimumSize
	}
	return p.write(h, frame)
}

func (p *Port) write(h VNetHdr, frame []byte) error {
	if !Within(5*time.Second, func() bool { return p.dev.InjectVNet(h, frame) }) {
		return unix.ETIMEDOUT
	}
	return nil
}

// Read returns the next frame for the guest, waiting until the deadline; the
// zero deadline does not wait. The frame is the caller's.
func (p *Port) Read(deadline time.Time) ([]byte, error) {
	d := p.dev
	for {
		d.mu.Lock()
		if len(d.sent) > 0 {
			f := d.sent[0]
			d.sent = d.sent[1:]
			d.mu.Unlock()
			completeChecksum(f)
			return f.Data, nil
		}
		d.mu.Unlock()
		if deadline.IsZero() {
			return nil, unix.EAGAIN
		}
		timer := time.NewTimer(time.Until(deadline))
		select {
		case <-d.arrived:
			timer.Stop()
		case <-timer.C:
			return nil, unix.ETIMEDOUT
		}
	}
}

// Close takes the device away from the stack, as deleting a TAP does.
func (p *Port) Close() { p.dev.Fail(unix.EBADFD) }

// completeChecksum does what a guest's kernel does with a partial checksum.
func completeChecksum(f Frame) {
	if f.VNet.Flags&NeedsCsum == 0 {
		return
	}
	start := int(f.VNet.CsumStart)
	if at := start + int(f.VNet.CsumOffset); at+2 <= len(f.Data) {
		binary.BigEndian.PutUint16(f.Data[at:], ^checksum.Checksum(f.Data[start:], 0))
	}
}
