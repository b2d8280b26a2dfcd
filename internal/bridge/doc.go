// Package bridge joins the members of one network: many TAPs, one stack.
//
// # Theory of operation
//
// A Bridge is the stack.Device of a network's stack. A port is a member's TAP, watched
// on the stack's shard. When frames wait there, the port is made current and the stack
// told; it reads a batch by Readv, which reads the current port:
//
//   - a frame for the gateway is what the stack has read;
//   - a frame for another member is written to that member's TAP at once, out of the
//     stack's buffers and as it is, with its virtio-net header and unsegmented. The
//     read looks interrupted, so the frame counts in the batch;
//   - all other frames are dropped, counted, and look the same.
//
// What the stack writes goes by its Ethernet destination to one port or, broadcast and
// multicast, to all.
//
// It is no learning switch. A member has been given one Ethernet address and its IP
// addresses, which the ports are told by Add, and says nothing in another's name
// (inspect.go):
//
//   - The Ethernet source is its own.
//   - The IPv4 source is its own; 0.0.0.0 asks for one by DHCP.
//   - The IPv6 source is its own, the one that it makes of its Ethernet address in the
//     plan's prefix, or a link-local address; but not the gateway's, nor the one that
//     another member makes of its Ethernet address. The unspecified address is for
//     duplicate address detection, router solicitations and multicast listeners.
//   - ARP and neighbour discovery speak of its own addresses, by its own link-layer
//     address. Probes claim their target (RFC 5227 section 2.1.1, RFC 4862 section
//     5.4.3), so they must be about its own addresses, too, or about the gateway's,
//     which are found taken.
//   - Router advertisements, redirects, and datagrams to the ports of DHCP clients,
//     of either version and whatever the source port, are the gateway's alone.
//
// Nothing of it hides behind IPv6 extension headers, which the stack's own parser
// skips: packets whose transport it does not find are dropped (RFC 7113 section 3). So
// are neighbour discovery in fragments (RFC 6980) and first fragments that end before
// what is looked at (RFC 7112); later ones are of no use without the first, and kernels
// drop datagrams in fragments that overlap (RFC 5722). Nor may the kernel at the other
// end be left to fill in a checksum over something that was checked.
//
// Broadcasts are few (forward.go). A request for an address goes to the member that has
// it, or to the stack. What only the gateway answers (DHCP, router solicitations) goes to
// the stack, and to no member even by its Ethernet address. All else goes to everybody, as often as the sender's bucket allows, which
// also bounds requests that the stack answers to everybody.
//
// Invariants: a frame with the gateway's Ethernet address reaches no member, and comes
// from none. Neither reading nor forwarding allocates or locks: the ports are an
// immutable table behind an atomic pointer, made anew by Add and Remove. After Remove
// nobody uses the port's device. All TAPs have the virtio-net header and offloads, or
// frames could not pass as they are.
//
// Life: New, the stack's New on it, Attach, then Add and Remove as members come and
// go. A port whose device vanishes removes itself and says so (Config.Gone). When the
// shard has stopped: the stack's Close, then the bridge's.
//
// Timers: none. Buckets look at the shard's clock when they are asked.
//
// What it does not do: it carries IPv4, ARP and, if the plan has it, IPv6, and no other
// EtherType (no VLAN tags, no spanning tree). Of IPv6 it carries TCP, UDP and ICMPv6
// alone. Nobody is told of a link-local address that a member has made up otherwise
// than of its Ethernet address, so it is not found by solicitations. It neither
// queues nor retries: what a member's TAP has no room for is lost, as at the port of
// any bridge.
package bridge
