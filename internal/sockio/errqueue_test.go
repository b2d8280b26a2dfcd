package sockio

import (
	"bytes"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// extended is struct sock_extended_err with the offender's address behind it.
func extended(e unix.SockExtendedErr, offender []byte) []byte {
	return append((*[unsafe.Sizeof(e)]byte)(unsafe.Pointer(&e))[:], offender...)
}

// FuzzErrorQueue: of any control message the error is what another parser finds in it,
// or there is none.
func FuzzErrorQueue(f *testing.F) {
	refused := unix.SockExtendedErr{Errno: uint32(unix.ECONNREFUSED), Origin: unix.SO_EE_ORIGIN_ICMP, Type: 3, Code: 3}
	tooBig := unix.SockExtendedErr{Errno: uint32(unix.EMSGSIZE), Origin: unix.SO_EE_ORIGIN_ICMP6, Type: 2, Info: 1280}
	offender4 := []byte{unix.AF_INET, 0, 0, 0, 192, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0}
	offender6 := append([]byte{unix.AF_INET6, 0, 0, 0, 0, 0, 0, 0, 0x20, 1, 0xd, 0xb8}, make([]byte, 16)...)
	whole := AppendControl(nil, unix.IPPROTO_IP, unix.IP_RECVERR, extended(refused, offender4))
	for _, b := range [][]byte{
		whole,
		AppendControl(nil, unix.IPPROTO_IPV6, unix.IPV6_RECVERR, extended(tooBig, offender6)),
		AppendControl(nil, unix.IPPROTO_IP, unix.IP_RECVERR, extended(refused, nil)),
		AppendControl(nil, unix.IPPROTO_IP, unix.IP_RECVERR, []byte{111}),
		append(AppendControl(nil, unix.IPPROTO_IP, unix.IP_TTL, []byte{64, 0, 0, 0}), whole...),
		{}, {16}, {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 11, 0, 0, 0},
	} {
		f.Add(b)
		f.Add(b[:len(b)/2])
	}
	f.Fuzz(func(t *testing.T, control []byte) {
		got, ok := parseError(control)
		messages, err := unix.ParseSocketControlMessage(control)
		if err != nil {
			return // a message that lies about its length, which may be behind what is looked for
		}
		find := func(level, typ int32) []byte {
			for _, m := range messages {
				if m.Header.Level == level && m.Header.Type == typ {
					return m.Data
				}
			}
			return nil
		}
		data := find(unix.IPPROTO_IP, unix.IP_RECVERR)
		if data == nil {
			data = find(unix.IPPROTO_IPV6, unix.IPV6_RECVERR)
		}
		if ok != (len(data) >= 16) {
			t.Fatalf("an error in %x: %v", data, ok)
		}
		if !ok {
			return
		}
		again := extended(unix.SockExtendedErr{
			Errno: uint32(got.Errno), Origin: got.Origin, Type: got.Type, Code: got.Code, Pad: data[7], Info: got.Info,
		}, nil)
		if !bytes.Equal(again[:12], data[:12]) {
			t.Errorf("%+v, of %x", got, data)
		}
		if a := got.Offender; a.IsValid() && !bytes.Contains(data[16:], a.AsSlice()) && len(data) >= 16+unix.SizeofSockaddrInet6 {
			t.Errorf("offender %v, of %x", a, data)
		}
	})
}
