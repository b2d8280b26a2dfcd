package namespace

import (
	"net"
	"os"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// waitIPv6 waits until the interface has a global IPv6 address that is not
// tentative (RFC 4862, 2), and reports whether it came within limit. A kernel
// without IPv6 is not waited for.
func waitIPv6(name string, limit time.Duration) bool {
	if _, err := os.Stat("/proc/self/net/if_inet6"); err != nil {
		return true
	}
	iface, err := net.InterfaceByName(name)
	if err != nil {
		return false
	}
	updates := make(chan netlink.AddrUpdate)
	done := make(chan struct{})
	defer close(done)
	err = netlink.AddrSubscribeWithOptions(updates, done, netlink.AddrSubscribeOptions{ListExisting: true, ErrorCallback: func(error) {}})
	if err != nil {
		return false
	}
	expired := time.After(limit)
	for {
		select {
		case u, ok := <-updates:
			if !ok {
				return false
			}
			if u.NewAddr && u.LinkIndex == iface.Index && usable(u) {
				return true
			}
		case <-expired:
			return false
		}
	}
}

// usable reports whether the address can be the source of a packet that leaves
// the link.
func usable(u netlink.AddrUpdate) bool {
	ip := u.LinkAddress.IP
	return ip.To4() == nil && ip.IsGlobalUnicast() && u.Flags&unix.IFA_F_TENTATIVE == 0
}
