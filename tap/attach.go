package tap

import (
	"context"
	"errors"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"epiphyte/internal/retry"
)

const (
	// busyFor is how long a device or port in use is retried (behaviour B4: the
	// predecessor was killed and its descriptors are about to be closed).
	busyFor   = time.Second
	busyPause = 10 * time.Millisecond
)

// attach makes each of tuns a queue of the interface, which is created if there is
// none, and configures it if asked to.
func (cfg Config) attach(ctx context.Context, tuns []result, conn *rtnetlinkConn) (*Device, error) {
	for _, tun := range tuns {
		if tun.err != nil {
			return nil, fail("open "+tunPath, tun.err, hintTunDevice(tun.err))
		}
	}
	var info deviceInfo
	fd := tuns[0].fd
	err := whileBusy(ctx, unix.EBUSY, func() (err error) {
		info, err = cfg.attachFirst(fd, conn)
		return err
	})
	if err != nil {
		return nil, err
	}
	// A queue takes over the interface's flags. Persistence, the offloads, and the
	// header's length and byte order are common to all queues.
	for _, tun := range tuns[1:] {
		if _, err := setInterface(tun.fd, info.name, cfg.flags()); err != nil {
			return nil, err
		}
	}
	if cfg.Transient {
		if err := unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 0); err != nil {
			return nil, fail("ioctl(TUNSETPERSIST)", err, "")
		}
		info.outlives = false
	}
	_, flags, err := tunFlags(fd)
	if err != nil {
		return nil, fail("ioctl(TUNGETIFF)", err, "")
	}
	if err := info.settle(fd, flags, !cfg.NoOffload); err != nil {
		return nil, err
	}
	if cfg.Configure != nil {
		if info.ipv6, err = conn.configure(ctx, info.name, *cfg.Configure); err != nil {
			return nil, err
		}
	}
	return newDevice(info, tuns), nil
}

// attachFirst tries to attach the first queue.
func (cfg Config) attachFirst(fd int, conn *rtnetlinkConn) (info deviceInfo, err error) {
	link, err := conn.find(cfg.Name)
	if err != nil {
		return info, err
	}
	flags := cfg.flags()
	if link != nil {
		info.outlives = true
		more, err := queueFlag(link)
		if err != nil {
			return info, err
		}
		if more == 0 && cfg.Queues > 1 {
			return info, fail("attach to "+cfg.Name, unix.EINVAL,
				"it exists and has a single queue: make it with multi_queue, or ask for one queue")
		}
		flags |= more
	}
	info.name, err = setInterface(fd, cfg.Name, flags)
	return info, err
}

// flags are those of every queue of our device: Ethernet frames with nothing before
// them but, where asked for, the virtio-net header.
func (cfg Config) flags() uint16 {
	flags := uint16(flagsPlain)
	if !cfg.NoOffload {
		flags |= unix.IFF_VNET_HDR
	}
	if cfg.Queues > 1 {
		flags |= unix.IFF_MULTI_QUEUE
	}
	return flags
}

// queueFlag is the flag needed to open a queue of an interface that exists: both
// kinds refuse the other's with EINVAL.
func queueFlag(link netlink.Link) (uint16, error) {
	op := "attach to " + link.Attrs().Name
	tun := asTAP(link)
	if tun == nil {
		return 0, fail(op, unix.EINVAL, hintNoTAP)
	}
	if tun.Flags&netlink.TUNTAP_MULTI_QUEUE == 0 {
		return 0, nil
	}
	// The kernel would let us in beside the queue of another program, and
	// share the flows out between us.
	if tun.Queues > 0 {
		return 0, fail(op, unix.EBUSY, hintAttach(link.Attrs().Name, unix.EBUSY))
	}
	return unix.IFF_MULTI_QUEUE, nil
}

// asTAP returns the interface as a TAP, nil if it is of another kind.
func asTAP(link netlink.Link) *netlink.Tuntap {
	if tun, ok := link.(*netlink.Tuntap); ok && tun.Mode == netlink.TUNTAP_MODE_TAP {
		return tun
	}
	return nil
}

// whileBusy repeats try for busyFor, as long as it fails with errno.
func whileBusy(ctx context.Context, errno unix.Errno, try func() error) (err error) {
	if ended := retry.While(ctx, busyFor, busyPause, func() bool {
		err = try()
		return errors.Is(err, errno)
	}); ended != nil {
		return ended
	}
	return err
}
