package tap

import (
	"context"
	"errors"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// busyFor is how long a device or port in use is tried again (behaviour B4:
	// the predecessor was killed and its descriptors are about to go).
	busyFor   = time.Second
	busyPause = 10 * time.Millisecond
)

// flagsPlain is what every descriptor of ours has: Ethernet frames and nothing
// before them but, where asked for, the virtio-net header.
const flagsPlain = unix.IFF_TAP | unix.IFF_NO_PI

// facts are what was found out about a descriptor.
type facts struct {
	Name     string
	VNetHdr  bool
	Offload  bool
	USO      bool
	Existing bool // made by somebody else, and outlives us
}

func (cfg Config) queues() int { return max(1, cfg.Queues) }

// make makes or attaches to the device in the namespaces that j leads to, and
// configures it when asked.
func (cfg Config) make(ctx context.Context, j *join) (*Device, error) {
	queues := cfg.queues()
	openings := make([]request, 0, queues+1)
	for range queues {
		openings = append(openings, openTun())
	}
	child, err := ask(ctx, j, append(openings, openNetlink())...)
	if err != nil {
		return nil, err
	}
	defer child.end()
	got, err := child.results()
	if err != nil {
		return nil, err
	}
	tuns, fd := got[:queues], got[queues]
	n, err := newNetns(fd)
	if err == nil {
		defer n.close()
		for _, tun := range tuns {
			if tun.err != nil {
				err = fail("open "+tunPath, tun.err, hintTunDevice(tun.err))
			}
		}
	}
	var f *facts
	if err == nil {
		f, err = n.device(ctx, tuns, cfg.Name, !cfg.NoOffload)
	}
	if err == nil && cfg.Vanish {
		err = f.vanish(tuns[0].fd)
	}
	if err == nil && cfg.Configure != nil {
		err = n.configure(f.Name, *cfg.Configure)
	}
	if err != nil {
		closeResults(tuns)
		return nil, err
	}
	d := newDevice(tuns[0].fd, f)
	for _, tun := range tuns[1:] {
		d.more = append(d.more, d.queue(tun.fd))
	}
	return d, nil
}

// device attaches tuns, as a queue each, to the named interface, which is created
// when there is none.
func (n *netns) device(ctx context.Context, tuns []result, name string, offload bool) (*facts, error) {
	var f *facts
	err := whileBusy(ctx, unix.EBUSY, func() (err error) {
		f, err = n.tryDevice(tuns[0].fd, name, offload, len(tuns) > 1)
		return err
	})
	if err != nil {
		return nil, err
	}
	// A queue takes the interface's flags over, and what is set by one is all
	// queues': the offloads, and the header's length and byte order.
	for _, tun := range tuns[1:] {
		if _, err := attach(tun.fd, f.Name, flagsOf(offload)|unix.IFF_MULTI_QUEUE); err != nil {
			return nil, err
		}
	}
	return f, n.settle(tuns[0].fd, f, offload)
}

// vanish makes the device go with the last descriptor of it.
func (f *facts) vanish(fd int) error {
	f.Existing = false
	if err := unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 0); err != nil {
		return fail("ioctl(TUNSETPERSIST)", err, "")
	}
	return nil
}

// flagsOf a queue, but for the kind of its interface.
func flagsOf(offload bool) uint16 {
	if offload {
		return flagsPlain | unix.IFF_VNET_HDR
	}
	return flagsPlain
}

// whileBusy tries something again for busyFor, as long as it fails with errno.
func whileBusy(ctx context.Context, errno unix.Errno, try func() error) error {
	deadline := time.Now().Add(busyFor)
	for {
		err := try()
		if !errors.Is(err, errno) || time.Now().After(deadline) {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(busyPause):
		}
	}
}

func (n *netns) tryDevice(tun int, name string, offload, several bool) (*facts, error) {
	link, err := n.find(name)
	if err != nil {
		return nil, err
	}
	f := &facts{Existing: link != nil}
	flags := flagsOf(offload)
	if several {
		flags |= unix.IFF_MULTI_QUEUE
	}
	if link != nil {
		more, err := queueFlag(link)
		if err != nil {
			return nil, err
		}
		if more == 0 && several {
			return nil, &fault{
				Op: "attach to " + name, Err: unix.EINVAL,
				Hint: "it exists and has a single queue: make it with multi_queue, or ask for one queue",
			}
		}
		flags |= more
	}
	if f.Name, err = attach(tun, name, flags); err != nil {
		return nil, err
	}
	return f, nil
}

// queueFlag is what it takes to open a queue of an interface that somebody made
// for us: both kinds refuse the other's flag with EINVAL.
func queueFlag(link netlink.Link) (uint16, error) {
	name := link.Attrs().Name
	tun, ok := link.(*netlink.Tuntap)
	if !ok || tun.Mode != netlink.TUNTAP_MODE_TAP {
		return 0, &fault{Op: "attach to " + name, Err: unix.EINVAL, Hint: "this interface is no TAP: choose another name"}
	}
	if tun.Flags&netlink.TUNTAP_MULTI_QUEUE == 0 {
		return 0, nil
	}
	// The kernel would let us in beside the queue of another program, and
	// share the flows out between us.
	if tun.Queues > 0 {
		return 0, fail("attach to "+name, unix.EBUSY, hintAttach(name, unix.EBUSY))
	}
	return unix.IFF_MULTI_QUEUE, nil
}

// settle asks what the descriptor is and sets the offloads accordingly.
func (n *netns) settle(fd int, f *facts, offload bool) error {
	_, flags, err := tunFlags(fd)
	if err != nil {
		return fail("ioctl(TUNGETIFF)", err, "")
	}
	f.VNetHdr = flags&unix.IFF_VNET_HDR != 0
	if !f.VNetHdr || !offload {
		return noOffload(fd)
	}
	if err := shapeVNetHdr(fd); err != nil {
		return err
	}
	if f.Offload, f.USO, err = negotiate(fd); err != nil {
		return err
	}
	f.Offload, f.USO = n.verified(f.Name, f.Offload, f.USO)
	return nil
}
