package test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"epiphyte/test/harness"
)

// runHeld stops the program after its child has made the device, and before the program has
// attached to it: it runs by instants, each followed by a look. One that was too long is tried
// again with another program.
func runHeld(t *testing.T) (h *harness.Helper, child int) {
	t.Helper()
	for until := time.Now().Add(deadline); time.Now().Before(until); h.Kill() {
		h = run(t, harness.HelperConfig{}, "--", "sleep", "1000")
		for made := false; !made && time.Now().Before(until); {
			if err := errors.Join(h.Signal(unix.SIGCONT), h.Signal(unix.SIGSTOP)); err != nil {
				t.Fatal(err)
			}
			if kids := h.Descendants(); len(kids) > 0 {
				must(fmt.Sscan(kids[0], &child))(t)
				_, err := tapOf(child)
				made = err == nil
			}
		}
		if dev, err := tapOf(child); err == nil && !dev.NonPersist && dev.Queues == 0 && len(h.Descendants()) == 1 {
			return h, child
		}
	}
	t.Fatal("the program has attached to its device before it could be stopped, each time")
	return nil, 0
}

// tapOf is the device in a process's network namespace.
func tapOf(pid int) (*netlink.Tuntap, error) {
	ns, err := env.NSOf(pid)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	return tapIn(ns)
}

func tapIn(ns *harness.NetNS) (dev *netlink.Tuntap, err error) {
	err = ns.Do(func() error {
		link, err := netlink.LinkByName(tapName)
		dev, _ = link.(*netlink.Tuntap)
		return err
	})
	return dev, err
}

// TestRunAttachesToTheDeviceThatItsChildMade, which is persistent until then, and
// vanishes with the program.
func TestRunAttachesToTheDeviceThatItsChildMade(t *testing.T) {
	h, child := runHeld(t)
	made := must(tapOf(child))(t)
	ns := must(env.NSOf(child))(t)
	defer ns.Close()
	if err := h.Signal(unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	eventually(t, deadline, func() error {
		dev, err := tapIn(ns)
		if err != nil {
			return err
		}
		if dev.Index != made.Index || !dev.NonPersist || dev.Flags&unix.IFF_VNET_HDR == 0 {
			return fmt.Errorf("%+v, %s", dev, h.Stderr)
		}
		return nil
	})
	h.Kill()
	eventually(t, deadline, func() error {
		if _, err := tapIn(ns); !isNotFound(err) {
			return fmt.Errorf("the device is still there: %v", err)
		}
		return nil
	})
}

func isNotFound(err error) bool {
	_, ok := errors.AsType[netlink.LinkNotFoundError](err)
	return ok
}

// TestRunKilledBeforeItAttaches leaves neither the device nor its namespace.
func TestRunKilledBeforeItAttaches(t *testing.T) {
	h, child := runHeld(t)
	// One end of a veth pair goes when the namespace of the other does.
	const witness = "witness0"
	if err := env.Host.Do(func() error {
		return netlink.LinkAdd(&netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: witness}, PeerName: "witness1", PeerNamespace: netlink.NsPid(child),
		})
	}); err != nil {
		t.Fatal(err)
	}
	h.Kill()
	eventually(t, deadline, func() error {
		return env.Host.Do(func() error {
			if _, err := netlink.LinkByName(witness); !isNotFound(err) {
				return fmt.Errorf("the namespace is still there: %v", err)
			}
			return nil
		})
	})
}
