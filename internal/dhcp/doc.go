// Package dhcp configures guests that ask for it: IPv4 leases by DHCP, and for
// IPv6 the router advertisements of stateless autoconfiguration with stateless
// DHCPv6 beside them.
//
// # Theory of operation
//
// Everything here is a function from message to message. The package opens no
// socket, starts no goroutine and sets no timer; the caller owns the ports (67 and
// 547 of the gateway), sends unsolicited advertisements and has the clock.
//
// IPv4: sixteen addresses, plan.DHCPStart to plan.DHCPEnd, are leased by
// hardware address for Config.Lease. There is no list of leases to grow: sixteen
// slots are all the state there is. A lease ends when its time is over or when
// the client releases it, and is remembered until another client needs the
// address, so that a client which comes back finds its own. A server that has
// been restarted knows no leases and grants what its clients ask to keep.
//
// A DISCOVER reserves the offered address for a minute; a REQUEST turns that
// into a lease. A wish for an address is granted if it is in the pool and free;
// otherwise it is ignored in DISCOVER and refused (NAK) in REQUEST. A BOOTP
// request, which has no message type, is taken for a REQUEST without a wish.
// INFORM is answered without an address. With all sixteen addresses taken a
// client gets no answer.
//
// On a network of several members each has its address already (Config.AddressOf):
// it is offered that one and refused any other, and non-members get no answer. Then
// there is no state at all. The hardware address is the one that the message names, so
// a member can learn another's address, but use only its own, which the bridge
// enforces.
//
// A guest whose subnets lie outside has its addresses already, too, those of the plan;
// any client in it is given the first of each family. Its router may be outside its
// subnet; then it is told how to get there (RFC 3442).
//
// IPv6: the guest chooses its addresses (RFC 4862), unless it has been given one, as on a
// network of several members; then the prefix is not for autoconfiguration. The
// advertisement names the router, the prefix, the resolver and the domains to search
// (RFC 8106) and the MTU; for clients that know only DHCPv6 an INFORMATION-REQUEST is
// answered with the resolver. Where the guest's subnets lie outside, DHCPv6 gives it its
// address, too, and needs no state for that.
//
// What it does not do: boot files, relays, prefix delegation.
package dhcp
