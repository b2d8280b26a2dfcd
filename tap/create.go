package tap

import (
	"errors"
	"os"
	"syscall"
	"time"

	"github.com/songgao/water"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// busyFor is how long a device in use is tried again (behaviour B4: the
	// predecessor was killed and its descriptor is about to go).
	busyFor   = time.Second
	busyPause = 10 * time.Millisecond
)

// flagsPlain is what every descriptor of ours has: Ethernet frames and nothing
// before them but, where asked for, the virtio-net header.
const flagsPlain = unix.IFF_TAP | unix.IFF_NO_PI

// device attaches to the named interface, or creates it when there is none.
func (n *netns) device(name string, offload bool) (*reply, int, error) {
	deadline := time.Now().Add(busyFor)
	for {
		rep, fd, err := n.tryDevice(name, offload)
		if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
			return rep, fd, err
		}
		time.Sleep(busyPause)
	}
}

func (n *netns) tryDevice(name string, offload bool) (*reply, int, error) {
	link, err := n.find(name)
	if err != nil {
		return nil, -1, err
	}
	rep := &reply{Existing: link != nil}
	var fd int
	switch {
	case link != nil:
		fd, rep.Name, err = attachTo(link, offload)
	case offload:
		fd, rep.Name, err = n.createOffload(name)
	default:
		fd, rep.Name, err = createPlain(name, false)
	}
	if err != nil {
		return nil, -1, err
	}
	if err := settle(fd, rep, offload); err != nil {
		unix.Close(fd)
		return nil, -1, err
	}
	return rep, fd, nil
}

// settle asks what the descriptor is and sets the offloads accordingly.
func settle(fd int, rep *reply, offload bool) error {
	_, flags, err := tunFlags(fd)
	if err != nil {
		return fail("ioctl(TUNGETIFF)", err, "")
	}
	rep.VNetHdr = flags&unix.IFF_VNET_HDR != 0
	if !rep.VNetHdr || !offload {
		return noOffload(fd)
	}
	if err := shapeVNetHdr(fd); err != nil {
		return err
	}
	if rep.Offload, rep.USO, err = negotiate(fd); err != nil {
		return err
	}
	rep.Offload, rep.USO = verified(rep.Name, rep.Offload, rep.USO)
	return nil
}

// attachTo opens a queue of an interface that somebody made for us. water is of
// no use here: it clears the persist flag, and the interface would go with us.
func attachTo(link netlink.Link, offload bool) (int, string, error) {
	name := link.Attrs().Name
	tun, ok := link.(*netlink.Tuntap)
	if !ok || tun.Mode != netlink.TUNTAP_MODE_TAP {
		return -1, "", &fault{Op: "attach to " + name, Err: unix.EINVAL, Hint: "this interface is no TAP: choose another name"}
	}
	flags := uint16(flagsPlain)
	if offload {
		flags |= unix.IFF_VNET_HDR
	}
	// Both kinds refuse the other's flag with EINVAL.
	if tun.Flags&netlink.TUNTAP_MULTI_QUEUE != 0 {
		// The kernel would let us in beside the queue of another program,
		// and share the flows out between us.
		if tun.Queues > 0 {
			return -1, "", fail("attach to "+name, unix.EBUSY, hintAttach(name, unix.EBUSY))
		}
		flags |= unix.IFF_MULTI_QUEUE
	}
	return attach(name, flags)
}

// createOffload makes an interface whose frames have a virtio-net header.
//
// water cannot ask for the header. But the flags of an interface are those of
// its first queue, so the first queue is ours, with the header, water's is the
// second, and ours is closed again. Kernels without multiple queues get a plain
// interface.
func (n *netns) createOffload(name string) (int, string, error) {
	first, name, err := attach(name, flagsPlain|unix.IFF_MULTI_QUEUE|unix.IFF_VNET_HDR)
	if errors.Is(err, unix.EINVAL) {
		return createPlain(name, false)
	}
	if err != nil {
		return -1, "", err
	}
	defer unix.Close(first)
	fd, name, err := createPlain(name, true)
	if err != nil {
		return -1, "", err
	}
	// Another program that created the same name at the same moment is in
	// the queue beside ours.
	if link, err := n.find(name); err == nil {
		if tun, ok := link.(*netlink.Tuntap); ok && tun.Queues > 2 {
			unix.Close(fd)
			return -1, "", fail("create "+name, unix.EBUSY, hintAttach(name, unix.EBUSY))
		}
	}
	return fd, name, nil
}

// createPlain makes an interface, or with multiQueue opens another queue of
// one, by way of water, and takes the descriptor out of its hands.
func createPlain(name string, multiQueue bool) (int, string, error) {
	ifce, err := water.New(water.Config{
		DeviceType:             water.TAP,
		PlatformSpecificParams: water.PlatformSpecificParams{Name: name, MultiQueue: multiQueue},
	})
	if err != nil {
		if _, ok := errors.AsType[*os.SyscallError](err); !ok {
			return -1, "", fail("open /dev/net/tun", err, hintTunDevice(err))
		}
		return -1, "", fail("ioctl(TUNSETIFF)", err, hintAttach(name, err))
	}
	defer ifce.Close()
	conn, ok := ifce.ReadWriteCloser.(syscall.Conn)
	if !ok {
		return -1, "", &fault{Op: "take the descriptor of " + name, Text: "water returned no file"}
	}
	fd, err := duplicate(conn)
	if err != nil {
		return -1, "", fail("take the descriptor of "+name, err, "")
	}
	return fd, ifce.Name(), nil
}

// duplicate copies a descriptor, close-on-exec, without making it blocking.
func duplicate(c syscall.Conn) (fd int, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return -1, err
	}
	ctlErr := raw.Control(func(f uintptr) {
		fd, err = unix.FcntlInt(f, unix.F_DUPFD_CLOEXEC, 0)
	})
	if ctlErr != nil {
		return -1, ctlErr
	}
	return fd, err
}
