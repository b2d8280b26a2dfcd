package tap

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"

	"epiphyte/internal/hostnet"
)

// Target says where the device is to live. Exactly one way is used, the first
// that is set in the order of the fields.
type Target struct {
	// FD, when positive, is a TAP descriptor that is open already, by this process
	// or by another that passed it; nothing is joined or configured. It is
	// duplicated: the caller keeps its own and may close it at any time. Both share
	// one open file description, hence O_NONBLOCK and the offloads, which are set,
	// and stay when we close. Anything else that carries one Ethernet frame per
	// read and write, such as a SOCK_SEQPACKET socket, works as well.
	FD int
	// PID, when positive, is a process whose network namespace is meant.
	PID int
	// NetNS is the path of a network namespace, as /run/netns/x or
	// /proc/PID/ns/net.
	NetNS string
	// UserNS, optional with NetNS, is the path of the user namespace to join
	// first. When empty, or the one we are in, the kernel is asked which user
	// namespace owns NetNS.
	UserNS string
}

func (t Target) String() string {
	switch {
	case t.FD > 0:
		return fmt.Sprintf("fd %d", t.FD)
	case t.PID > 0:
		return fmt.Sprintf("process %d", t.PID)
	default:
		return t.NetNS
	}
}

// Network is what the guest's side of the device is configured with. Configuring
// also brings the loopback interface and the device up.
type Network struct {
	Address netip.Prefix // the guest's IPv4 address with its subnet's length, e.g. 10.0.2.100/24
	Gateway netip.Addr   // default route; not valid: none is set
	// Address6 and Gateway6 are the same for IPv6. Not valid: IPv6 is left to the
	// guest. A guest in which IPv6 is off does without; see Device.HasIPv6.
	Address6 netip.Prefix
	Gateway6 netip.Addr
	// More are further addresses, of either family. IPv6's need Address6.
	More []netip.Prefix
	// Routes are set as well, whatever interface and source they have. A default route
	// among them replaces the family's gateway. A route that the namespace refuses, since
	// another one is missing there, is left out.
	Routes []hostnet.Route
	// Shared says that other interfaces of the namespace have default routes, too: ours
	// comes after those of older interfaces, and takes over when they are gone. What is
	// sent from Address and Address6, such as replies to clients that came by this
	// interface, goes by our gateways all the same.
	Shared bool
	// LinkDown leaves the device down, and sets only its MTU and MAC: the guest asks for
	// the rest by DHCP or router solicitations.
	LinkDown bool
	MTU      int              // bytes, 68 to 65521 (the kernel decides); 0: left as it is
	MAC      net.HardwareAddr // 6 bytes, unicast; nil: the kernel's choice
}

// Config describes the device wanted.
type Config struct {
	Target Target
	// Name of the interface, at most 15 bytes. A %d in it is replaced by the
	// kernel with the first free number. Ignored with Target.FD.
	Name string
	// Configure, when not nil, is applied inside the namespace. When nil the
	// device is left as it is, not even brought up. Ignored with Target.FD.
	Configure *Network
	// Queues of the device, 1 to MaxQueues; 0: one. Several make a device of the
	// kernel's multi-queue kind, and need an existing one to be of it. Not with
	// Target.FD.
	Queues int
	// LoopbackOnly makes no interface: lo is brought up, and the Device carries no frames.
	// All else but Target is ignored, which must not be an FD.
	LoopbackOnly bool
	// Transient makes a device that exists, such as one of Make's, vanish with the
	// last copy of its descriptor. Ignored with Target.FD.
	Transient bool
	// NoOffload asks for plain frames: no virtio-net header, no offloads.
	NoOffload bool
	// Logger gets one debug line per device; nil: nothing is logged.
	Logger *slog.Logger
}

// MaxQueues is how many queues a device may have: more processors than one guest
// keeps busy. The kernel would take 256 (MAX_TAP_QUEUES).
const MaxQueues = 16

func (c Config) check() error {
	if c.Queues < 0 || c.Queues > MaxQueues {
		return fmt.Errorf("%d queues: a device has 1 to %d", c.Queues, MaxQueues)
	}
	if c.Target.FD > 0 {
		if c.LoopbackOnly {
			return fmt.Errorf("use %v: it is an interface, and none is wanted", c.Target)
		}
		if c.Queues > 1 {
			return fmt.Errorf("use %v: a descriptor is one queue: ask for no more", c.Target)
		}
		return nil
	}
	if c.LoopbackOnly {
		return nil
	}
	if err := checkName(c.Name); err != nil {
		return err
	}
	if c.Configure != nil {
		return c.Configure.check()
	}
	return nil
}

func (n Network) check() error {
	if n.MAC != nil && len(n.MAC) != 6 {
		return fmt.Errorf("MAC address %s is not 6 bytes long", n.MAC)
	}
	return nil
}

// checkName applies the kernel's rule (dev_valid_name in net/core/dev.c), since
// TUNSETIFF silently takes another name instead. None at all is valid: the
// kernel chooses.
func checkName(name string) error {
	if len(name) >= unix.IFNAMSIZ {
		return fmt.Errorf("interface name %q is longer than %d bytes", name, unix.IFNAMSIZ-1)
	}
	// The kernel counts the byte 0xa0 as a space, whatever the encoding.
	if name == "." || name == ".." || strings.ContainsAny(name, "/: \t\n\v\f\r\x00") || strings.IndexByte(name, 0xa0) >= 0 {
		return fmt.Errorf("%q is not a valid interface name: it has a slash, a colon or a space", name)
	}
	return nil
}
