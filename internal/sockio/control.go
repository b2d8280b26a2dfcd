package sockio

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// AppendControl appends a control message.
func AppendControl(b []byte, level, typ int, data []byte) []byte {
	h := unix.Cmsghdr{Level: int32(level), Type: int32(typ)}
	h.SetLen(unix.CmsgLen(len(data)))
	end := len(b) + unix.CmsgSpace(len(data))
	b = append(b, (*[unix.SizeofCmsghdr]byte)(unsafe.Pointer(&h))[:]...)
	b = append(b, data...)
	for len(b) < end {
		b = append(b, 0)
	}
	return b
}

// FindControl is the data of the first control message of a kind, nil if there
// is none, or if one before it lies about its length.
func FindControl(b []byte, level, typ int) []byte {
	for len(b) >= unix.SizeofCmsghdr {
		h := (*unix.Cmsghdr)(unsafe.Pointer(&b[0]))
		size := int(h.Len)
		if size < unix.SizeofCmsghdr || size > len(b) {
			return nil
		}
		if h.Level == int32(level) && h.Type == int32(typ) {
			return b[unix.CmsgLen(0):size]
		}
		b = b[min(unix.CmsgSpace(size-unix.SizeofCmsghdr), len(b)):]
	}
	return nil
}
