package tap

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// vnetHdrLen is the size in bytes of the virtio-net header before each frame.
const vnetHdrLen = 10

const tunPath = "/dev/net/tun"

// openTun is how a child opens the clone device: attached to no interface yet,
// and in whose namespace that will be is settled.
func openTun() request {
	return openFile(tunPath, unix.O_RDWR|unix.O_NONBLOCK)
}

// attach makes fd a queue of the interface, which is created when it does not
// exist, and returns its real name.
func attach(fd int, name string, flags uint16) (string, error) {
	ifr, err := unix.NewIfreq(name)
	if err == nil {
		ifr.SetUint16(flags)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
	}
	if err != nil {
		return "", fail("ioctl(TUNSETIFF)", err, hintAttach(name, err))
	}
	return ifr.Name(), nil
}

// tunFlags asks the kernel which interface a descriptor is attached to, and how.
func tunFlags(fd int) (name string, flags uint16, err error) {
	ifr, err := unix.NewIfreq("")
	if err != nil {
		return "", 0, err
	}
	if err := unix.IoctlIfreq(fd, unix.TUNGETIFF, ifr); err != nil {
		return "", 0, err
	}
	return ifr.Name(), ifr.Uint16(), nil
}

// shapeVNetHdr sets the header's length and byte order, which outlive a detach
// from a persistent interface, and asks the length back.
func shapeVNetHdr(fd int) error {
	if err := unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, vnetHdrLen); err != nil {
		return fail("ioctl(TUNSETVNETHDRSZ)", err, "")
	}
	if n, err := unix.IoctlGetUint32(fd, unix.TUNGETVNETHDRSZ); err != nil || n != vnetHdrLen {
		return &fault{Op: "ioctl(TUNGETVNETHDRSZ)", Text: "the kernel keeps another header length"}
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TUNSETVNETLE, 1); err != nil {
		return fail("ioctl(TUNSETVNETLE)", err, "")
	}
	return nil
}

// hardwareAddr is the address of the interface behind a TAP descriptor. Unlike
// the same request on a socket it works from any network namespace.
func hardwareAddr(fd int) (mac [6]byte, err error) {
	var ifr struct {
		name   [unix.IFNAMSIZ]byte
		family uint16
		data   [14]byte
		_      [8]byte
	}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCGIFHWADDR, uintptr(unsafe.Pointer(&ifr)))
	if errno != 0 {
		return mac, errno
	}
	copy(mac[:], ifr.data[:])
	return mac, nil
}
