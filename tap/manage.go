package tap

import (
	"context"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Configure does to the named interface what Open does with Config.Configure, for
// a device whose address was not known when it was opened. It needs no descriptor
// of the device. It reports whether the guest has n.Address6, as Device.HasIPv6
// does.
//
// A second Configure adds to the first; what exists already is no error. The
// MAC address is changed before the device is brought up; a Device opened before
// reports the former one.
//
// Errors are as those of Open; ENODEV for an interface that does not exist.
func Configure(ctx context.Context, t Target, name string, n Network) (ipv6 bool, err error) {
	err = n.check()
	if err == nil {
		err = withInterface(ctx, t, name, func(c *rtnetlinkConn) error {
			ipv6, err = c.configure(ctx, name, n)
			return err
		})
	}
	if err != nil {
		return false, fmt.Errorf("configure TAP: %w", err)
	}
	return ipv6, nil
}

// Remove deletes the named TAP, even if descriptors of it are open: reads and writes
// fail with EBADFD from then on. A missing interface is no error; one of another
// kind is, and stays.
//
// Errors are as those of Open. A namespace that has gone is the caller's to
// forgive: ESRCH by Target.PID, ENOENT by Target.NetNS.
func Remove(ctx context.Context, t Target, name string) error {
	err := withInterface(ctx, t, name, func(c *rtnetlinkConn) error {
		link, err := c.find(name)
		if link == nil {
			return err
		}
		return c.remove(link)
	})
	if err != nil {
		return fmt.Errorf("remove TAP: %w", err)
	}
	return nil
}

// withInterface runs do with a netlink socket of the target's namespace, by which it
// may change the interface of that name.
func withInterface(ctx context.Context, t Target, name string, do func(*rtnetlinkConn) error) error {
	if name == "" {
		return errors.New("no interface name given")
	}
	if err := checkName(name); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	j, err := resolve(t)
	if err != nil {
		return err
	}
	defer j.close()
	err = askRtnetlink(j, do)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// askRtnetlink has a child open the socket.
func askRtnetlink(j *join, do func(*rtnetlinkConn) error) error {
	got, err := ask(j, openRtnetlink())
	if err != nil {
		return err
	}
	c, err := newRtnetlinkConn(got[0])
	if err != nil {
		return err
	}
	defer c.Close()
	return do(c)
}

// remove deletes a TAP.
func (c *rtnetlinkConn) remove(link netlink.Link) error {
	op := "remove " + link.Attrs().Name
	if asTAP(link) == nil {
		return fail(op, unix.EINVAL, hintNoTAP)
	}
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(link.Attrs().Index)
	if err := c.Change(unix.RTM_DELLINK, 0, msg); err != nil && err != unix.ENODEV {
		return fail(op, err, hintConfigure(err))
	}
	return nil
}
