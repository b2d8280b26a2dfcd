package tap

import (
	"encoding/binary"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	ethSSFeatures = 4  // enum ethtool_stringset, linux/ethtool.h
	ethStringLen  = 32 // ETH_GSTRING_LEN
	// maxFeatures bounds what the kernel may say it has; Linux 6.18 has 64.
	maxFeatures = 1024
)

// activeFeatures returns the names of the device features that are on now
// (ETHTOOL_GFEATURES), as ethtool -k prints them. Any socket of the interface's
// network namespace will do.
func activeFeatures(sock int, name string) (map[string]bool, error) {
	ne := binary.NativeEndian

	// struct ethtool_sset_info: cmd, reserved, 64-bit mask, one count.
	info := make([]byte, 24)
	ne.PutUint32(info, unix.ETHTOOL_GSSET_INFO)
	ne.PutUint64(info[8:], 1<<ethSSFeatures)
	if err := ethtool(sock, name, info); err != nil {
		return nil, err
	}
	count := int(ne.Uint32(info[16:]))
	if ne.Uint64(info[8:]) == 0 || count <= 0 || count > maxFeatures {
		return nil, unix.EOPNOTSUPP
	}

	// struct ethtool_gstrings: cmd, set, count, names.
	names := make([]byte, 12+count*ethStringLen)
	ne.PutUint32(names, unix.ETHTOOL_GSTRINGS)
	ne.PutUint32(names[4:], ethSSFeatures)
	ne.PutUint32(names[8:], uint32(count))
	if err := ethtool(sock, name, names); err != nil {
		return nil, err
	}

	// struct ethtool_gfeatures: cmd, number of blocks; each block of 32
	// features is available, requested, active, never changed.
	blocks := (count + 31) / 32
	features := make([]byte, 8+blocks*16)
	ne.PutUint32(features, unix.ETHTOOL_GFEATURES)
	ne.PutUint32(features[4:], uint32(blocks))
	if err := ethtool(sock, name, features); err != nil {
		return nil, err
	}

	active := make(map[string]bool)
	for i := range count {
		if ne.Uint32(features[8+i/32*16+8:])&(1<<(i%32)) != 0 {
			active[unix.ByteSliceToString(names[12+i*ethStringLen:][:ethStringLen])] = true
		}
	}
	return active, nil
}

// ethtool passes one command, which begins buf, to the interface's driver.
func ethtool(sock int, name string, buf []byte) error {
	ifr := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [24 - unsafe.Sizeof(uintptr(0))]byte
	}{data: unsafe.Pointer(&buf[0])}
	copy(ifr.name[:unix.IFNAMSIZ-1], name)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(sock), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&ifr)))
	if errno != 0 {
		return errno
	}
	return nil
}
