package tap

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	tunPath = "/dev/net/tun"
	// vnetHdrLen is the size in bytes of the virtio-net header before each frame.
	vnetHdrLen = 10
	// flagsPlain is an Ethernet device with nothing before its frames.
	flagsPlain = unix.IFF_TAP | unix.IFF_NO_PI

	// Masks for TUNSETOFFLOAD. USO came with Linux 6.2 and is accepted only for
	// both families at once (set_offload in drivers/net/tun.c). A checksum offload
	// alone is not worth a separate case.
	offloadTSO = unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6
	offloadUSO = offloadTSO | unix.TUN_F_USO4 | unix.TUN_F_USO6
)

// openTun is how a child opens the clone device. It is not attached yet; the namespace
// of the future interface is fixed by this open.
func openTun() request {
	return openFile(tunPath, unix.O_RDWR|unix.O_NONBLOCK)
}

// setInterface makes fd a queue of the interface, which is created when it does
// not exist, and returns its real name.
func setInterface(fd int, name string, flags uint16) (string, error) {
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

// NetNSOf opens the network namespace of a TAP, whichever it was opened in. It needs
// CAP_NET_ADMIN there, which the owner of its user namespace has.
func NetNSOf(tun int) (fd int, err error) {
	fd, err = unix.IoctlRetInt(tun, unix.TUNGETDEVNETNS)
	if err != nil {
		return -1, fail("ioctl(TUNGETDEVNETNS)", err, "")
	}
	return fd, nil
}

// tunFlags asks the kernel which interface a descriptor is attached to, and how.
func tunFlags(fd int) (name string, flags uint16, err error) {
	ifr, err := unix.NewIfreq("")
	if err == nil {
		err = unix.IoctlIfreq(fd, unix.TUNGETIFF, ifr)
	}
	if err != nil {
		return "", 0, err
	}
	return ifr.Name(), ifr.Uint16(), nil
}

// settle enables the wanted offloads that the kernel supports, and disables the
// rest: they belong to the interface and outlive a detach. They need the header,
// without which a receiver could not tell a partial checksum from a wrong one.
func (i *deviceInfo) settle(fd int, flags uint16, want bool) error {
	i.vnetHdr = flags&unix.IFF_VNET_HDR != 0
	if i.vnetHdr {
		if err := shapeVNetHdr(fd); err != nil {
			return err
		}
	}
	if i.vnetHdr && want {
		for _, mask := range []int{offloadUSO, offloadTSO} {
			err := setOffload(fd, mask)
			if err == nil {
				i.offload, i.uso = true, mask == offloadUSO
				return nil
			}
			if !errors.Is(err, unix.EINVAL) {
				return err
			}
		}
	}
	return setOffload(fd, 0)
}

func setOffload(fd, mask int) error {
	if err := unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, mask); err != nil {
		return fail("ioctl(TUNSETOFFLOAD)", err, "")
	}
	return nil
}

// shapeVNetHdr sets the header's length and byte order, which outlive a detach
// from a persistent interface, and verifies the length.
func shapeVNetHdr(fd int) error {
	if err := unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, vnetHdrLen); err != nil {
		return fail("ioctl(TUNSETVNETHDRSZ)", err, "")
	}
	if n, err := unix.IoctlGetUint32(fd, unix.TUNGETVNETHDRSZ); err != nil || n != vnetHdrLen {
		return fail("ioctl(TUNGETVNETHDRSZ)", errors.New("the kernel keeps another header length"), "")
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

// KernelHasUSO reports whether devices can carry UDP super-datagrams, when there is no
// device to ask yet: since Linux 6.2 (TUN_F_USO4).
func KernelHasUSO() bool {
	var name unix.Utsname
	if unix.Uname(&name) != nil {
		return false
	}
	var major, minor int
	if n, _ := fmt.Sscanf(unix.ByteSliceToString(name.Release[:]), "%d.%d", &major, &minor); n != 2 {
		return false
	}
	return major > 6 || major == 6 && minor >= 2
}
