package stack_test

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"epiphyte/internal/testnet"
)

// TestB20_DatagramsInARow: as one super-datagram where the device takes that and
// none of them needs fragments, else one by one; and always those that were
// given.
func TestB20_DatagramsInARow(t *testing.T) {
	devices(t, func(t *testing.T, d testnet.DeviceConfig) {
		families(t, func(t *testing.T, guest, remote netip.AddrPort) {
			headers := 28
			if guest.Addr().Is6() {
				headers = 48
			}
			for _, mtu := range []int{1280, 1500, 65520} {
				for _, c := range []struct {
					segment int
					parts   []int
				}{
					{0, []int{0}},
					{1, []int{1, 1, 1}},
					{100, []int{100}},
					{100, []int{99}},
					{100, []int{1000, 100, 200, 101}},
					{mtu - headers, []int{mtu - headers, 1}},
					{mtu - headers + 1, []int{mtu - headers + 1, 1}},
					{500, []int{32000, 33000, 7}},
					{500, []int{32000, 33000, 500, 8}}, // 65508: too large
				} {
					s := newSeam(t, seamConfig{device: d, mtu: mtu})
					var parts, want [][]byte
					total := 0
					for i, size := range c.parts {
						p := pattern(size, uint64(i))
						parts = append(parts, p)
						for total += size; len(p) > 0; {
							n := min(c.segment, len(p))
							want = append(want, p[:n])
							p = p[n:]
						}
					}
					if total == 0 {
						want = parts
					}
					s.stack.SendUDPs(remote, guest, c.segment, parts...)
					s.stack.SendUDP(remote, guest, []byte("after"))
					want = append(want, []byte("after"))
					frames := s.dev.Sent()
					limit := 65507
					if guest.Addr().Is6() {
						limit = 65527
					}
					if one := d.USO && total > c.segment && c.segment+headers <= mtu && total <= limit; one && len(frames) != 2 {
						t.Errorf("MTU %d, segments of %d in %v: %d frames", mtu, c.segment, c.parts, len(frames)-1)
					}
					got := cutDatagrams(t, mtu, headers, frames, d.Offload || d.USO)
					if len(got) != len(want) {
						t.Fatalf("MTU %d, segments of %d in %v: %d datagrams, want %d", mtu, c.segment, c.parts, len(got), len(want))
					}
					for i := range got {
						if !bytes.Equal(got[i], want[i]) {
							t.Errorf("MTU %d, segments of %d in %v: datagram %d is of %d bytes, not the %d that were sent", mtu, c.segment, c.parts, i, len(got[i]), len(want[i]))
						}
					}
				}
			}
		})
	})
}

// cutDatagrams does what a kernel does with the frames: it cuts super-datagrams
// and joins fragments. Identifications must not be used twice.
func cutDatagrams(t *testing.T, mtu, headers int, frames []testnet.Frame, partial bool) (all [][]byte) {
	t.Helper()
	seen := map[uint32]bool{}
	use := func(id uint32, v4 bool) {
		if v4 && seen[id&0xffff] {
			t.Errorf("identification %d is used twice", id)
		}
		seen[id&0xffff] = true
	}
	for i := 0; i < len(frames); {
		f := frames[i]
		p, err := f.Parse()
		if err != nil {
			t.Fatal(err)
		}
		i++
		if f.VNet.GSOType != 0 {
			segment := int(f.VNet.GSOSize)
			if f.VNet.GSOType != testnet.GSOUDPL4 || f.VNet.Flags != testnet.NeedsCsum || segment+headers > mtu ||
				int(binary.BigEndian.Uint16(p.Payload[4:])) != len(p.Payload) {
				t.Errorf("super-datagram %+v of %d bytes", f.VNet, len(p.Payload))
			}
			data := p.Payload[8:]
			if len(data) <= segment {
				t.Errorf("a super-datagram of %d bytes in segments of %d", len(data), segment)
			}
			for k := 0; len(data) > 0; k++ {
				n := min(segment, len(data))
				all = append(all, data[:n])
				data = data[n:]
				use(p.ID+uint32(k), p.Src.Is4())
			}
			continue
		}
		fragments := []testnet.Packet{p}
		for p.More {
			if p, err = frames[i].Parse(); err != nil {
				t.Fatal(err)
			}
			fragments = append(fragments, p)
			i++
		}
		use(p.ID, p.Src.Is4())
		p = reassemble(t, mtu, fragments)
		if !partial && testnet.TransportSum(p.Src, p.Dst, p.Proto, p.Payload) != 0xffff {
			t.Error("a wrong checksum")
		}
		all = append(all, p.Payload[8:])
	}
	return all
}
