package tap

import "golang.org/x/sys/unix"

// Offloads as TUNSETOFFLOAD counts them, best first. USO came with Linux 6.2
// and is taken only for both families at once (set_offload in
// drivers/net/tun.c). A checksum offload alone is not worth a separate case.
const (
	offloadTSO = unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6
	offloadUSO = offloadTSO | unix.TUN_F_USO4 | unix.TUN_F_USO6
)

// negotiate switches on as much as the kernel accepts, and all off otherwise.
// It requires a descriptor with VNET_HDR: without the header a receiver could
// not tell a partial checksum from a wrong one.
func negotiate(fd int) (offload, uso bool, err error) {
	for _, mask := range []int{offloadUSO, offloadTSO} {
		err := unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, mask)
		switch err {
		case nil:
			return true, mask == offloadUSO, nil
		case unix.EINVAL:
			continue
		default:
			return false, false, fail("ioctl(TUNSETOFFLOAD)", err, "")
		}
	}
	return false, false, noOffload(fd)
}

// noOffload makes the kernel finish checksums and segments itself. Offloads
// belong to the interface and outlive a detach, so even a plain descriptor
// needs it.
func noOffload(fd int) error {
	if err := unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, 0); err != nil {
		return fail("ioctl(TUNSETOFFLOAD)", err, "")
	}
	return nil
}

// verified asks back what negotiate got: the kernel accepts a set of offloads
// as a wish, and may drop some of them by its own rules (netdev_fix_features).
func (n *netns) verified(name string, offload, uso bool) (bool, bool) {
	if !offload {
		return false, false
	}
	active, err := activeFeatures(n.fd, name)
	if err != nil {
		return false, false
	}
	offload = active["tx-checksum-ip-generic"] &&
		active["tx-tcp-segmentation"] && active["tx-tcp6-segmentation"]
	return offload, offload && uso && active["tx-udp-segmentation"]
}
