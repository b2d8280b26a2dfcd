// Package bridge joins the members of one network: many TAPs, one stack.
//
// # Theory of operation
//
// A Bridge is the stack.Device of a network's stack. A port is a member's TAP, watched
// on the stack's shard. When frames wait there, the port is made current and the stack
// told; it reads a batch by Readv, which reads the current port:
//
//   - a frame for the gateway is handed to the stack;
//   - a frame for another member is written to that member's TAP at once, out of the
//     stack's buffers and as it is, with its virtio-net header and unsegmented. To the
//     stack the read looks interrupted, so the frame counts in the batch;
//   - all other frames are dropped and counted, and look interrupted as well.
//
// What the stack writes goes by its Ethernet destination to one port or, broadcast and
// multicast, to all.
//
// It is no learning switch. A member has been given one Ethernet address and its IP
// addresses, which Add is told, and may not use another's (inspect.go):
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
//   - Only the gateway sends router advertisements, redirects, and datagrams to the ports
//     of DHCP clients, of either version and whatever the source port.
//
// IPv6 extension headers hide nothing from these checks: the stack's own parser skips
// them, and packets whose transport it does not find are dropped (RFC 7113 section 3). So
// are neighbour discovery in fragments (RFC 6980) and first fragments that end before the
// fields that are checked (RFC 7112); later ones are of no use without the first, and
// kernels drop datagrams in fragments that overlap (RFC 5722). Nor may the kernel at the
// other end be made to fill in a checksum over a field that was checked.
//
// Broadcasts are few (forward.go). A request for an address goes to the member that has
// it, or to the stack. What only the gateway answers (DHCP, router solicitations) goes to
// the stack, and to no member even by its Ethernet address. All else goes to everybody, as
// often as the sender's bucket allows, which also bounds requests that the stack answers
// to everybody.
//
// TCP connections between ports that are followed (Port.Follow) are known by what their segments
// say, from the SYN on, so that sockets can take the place of either end when one has moved much
// (follow.go, conn.go). The segments pass all the same, until the connection has left.
//
// Invariants: a frame with the gateway's Ethernet address reaches no member, and comes
// from none. Neither reading nor forwarding locks, or allocates but for a connection that
// begins: the ports are an immutable table behind an atomic pointer, replaced by Add and
// Remove. After Remove the port's device is not used. All TAPs have the virtio-net header and
// offloads, or frames could not pass as they are. Followed connections are bounded for each
// member that asks for them.
//
// Life: New, the stack's New on it, Attach, then Add and Remove as members come and
// go. A port whose device vanishes removes itself and calls Config.Gone. When the shard
// has stopped: the stack's Close, then the bridge's.
//
// Timers: none. Buckets look at the shard's clock when they are asked.
//
// What it does not do: it carries IPv4, ARP and, if the plan has it, IPv6, and no other
// EtherType (no VLAN tags, no spanning tree). Of IPv6 it carries only TCP, UDP and
// ICMPv6. Solicitations find a member's link-local address only if it is made from the
// Ethernet address. The bridge neither queues nor retries: what a member's TAP has no room
// for is lost, as at the port of any bridge.
package bridge
