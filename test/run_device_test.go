package test

import (
	"errors"
	"fmt"
	"net"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"epiphyte/test/harness"
)

// runHeld starts `run` with a published port that is in use until the listener is
// closed. The program waits for it after its child has made the device and before
// it attaches to that; it is stopped there.
func runHeld(t *testing.T) (h *harness.Helper, child int, busy net.Listener) {
	t.Helper()
	busy = must(env.Host.Listen("tcp4", "127.0.0.1:0"))(t)
	t.Cleanup(func() { busy.Close() })
	h = run(t, harness.HelperConfig{}, "-p", fmt.Sprintf("127.0.0.1:%s:8080", port(busy.Addr())), "--", "sleep", "1000")
	eventually(t, deadline, func() error {
		kids := h.Descendants()
		if len(kids) == 0 {
			return fmt.Errorf("no child: %s", h.Stderr)
		}
		if _, err := fmt.Sscan(kids[0], &child); err != nil {
			return err
		}
		_, err := tapOf(child)
		return err
	})
	if err := h.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	dev := must(tapOf(child))(t)
	if dev.NonPersist || dev.Queues > 0 || len(h.Descendants()) != 1 {
		t.Fatalf("the program has attached to %+v too early, or has another child: %s%s", dev, h.Descendants(), h.Stderr)
	}
	return h, child, busy
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
	h, child, busy := runHeld(t)
	made := must(tapOf(child))(t)
	ns := must(env.NSOf(child))(t)
	defer ns.Close()
	busy.Close()
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
	h, child, _ := runHeld(t)
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
