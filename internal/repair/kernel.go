package repair

import (
	"net/netip"

	"golang.org/x/sys/unix"
)

// Agent makes the outer ends of connections within a guest's kernel, so that segments bypass the
// device. tap.Agent implements it and documents the methods. Methods and callbacks run on the
// shard's thread; EPIPE means that the Agent is gone, and that nobody knows whether it has
// carried out the order.
type Agent interface {
	Repair(family int, take func(fd int) (kept bool))
	Hold(guest, outside netip.AddrPort, done func(unix.Errno))
	LetGo(guest, outside netip.AddrPort, done func(unix.Errno))
	Carry(guest, outside netip.AddrPort, fd int, done func(unix.Errno))
	Drop(guest, outside netip.AddrPort, fd int, done func(unix.Errno))
}

// Kernel is a guest's that can carry connections.
type Kernel struct {
	// Agent is in the guest's namespaces. Nil: there is none yet, and Start has one started.
	Agent Agent
	Start func()
	// ReadAll reads what waits on the guest's device now; nil: stack.Conn.ReadAll does.
	ReadAll func()
	// After is how many bytes a connection moves within a second before it is carried, where
	// each turn counts for some as well; 0: at once.
	After uint64

	lo [2]Loopback
}

// Lo is what is known of the guest's lo for the family of its address.
func (k *Kernel) Lo(guest netip.Addr) *Loopback {
	if guest.Is6() {
		return &k.lo[1]
	}
	return &k.lo[0]
}

// Family is that of an address, for Agent.Repair.
func Family(a netip.Addr) int {
	if a.Is6() {
		return unix.AF_INET6
	}
	return unix.AF_INET
}
