// Package stack is the guest's side of the network: Ethernet, IP and TCP
// towards the TAP, on top of gVisor's netstack.
//
// # Theory of operation
//
// A Stack sits on one frame device (see Device) and one shard. The shard tells
// it when frames wait; it reads them in batches and sorts them:
//
//   - ARP and neighbour solicitations are answered here for our own addresses, and
//     where the guest's subnets lie outside, for every address but the guest's
//     (neighbor.go);
//   - TCP segments of established connections go straight into their gVisor
//     endpoint, many segments under one lock and one ACK per batch (inline.go);
//   - an opening SYN, UDP and ICMP go to the Handler, which is the forwarder;
//   - fragments and every other TCP segment take gVisor's ordinary path, which
//     reassembles, answers stray segments with RST, and hands SYNs, UDP and ICMP
//     back to the same Handler.
//
// What is queued for the end of the batch is handled earlier if a packet depends on it:
// a SYN, a fragment, or an ICMP error about a connection. What the virtio-net header
// leaves to a network card is done where the result is visible (offload.go).
//
// Life of a TCP connection: the Handler sees the SYN and decides. To refuse, it
// has the stack send a RST or an ICMP error. To accept, it calls Accept, which
// plays the SYN into gVisor; when the guest has completed the handshake the
// caller gets a Conn on the shard's thread. A Conn stays in the table of known
// connections until gVisor has let go of the endpoint, past Close, so that the
// closing handshake is handled inline as well. Endpoints stay in gVisor's own table
// all the time: segments in fragments and ICMP errors find them there.
//
// Several stacks may share a guest, each with a queue of the device and connections of
// its own. Package steer, which uses the parser of packet.go too, gives each its
// frames. A stack claims the connections that it dials, and numbers its fragments
// differently from the others.
//
// Frames towards the guest leave in one writev: gVisor's segments from the
// link endpoint (link.go), UDP and ICMP built here without passing gVisor
// (send.go), both as super-segments with partial checksums where the device
// takes them.
//
// Invariants: the martian filter in receive.go drops packets with a source that no
// guest can have (loopback, multicast, one of our own addresses) before any handler;
// gVisor's error type ends in errno.go; the unexported parts of gVisor that are needed
// are named in inline.go alone.
//
// Memory: the buffers of all connections share a budget (budget.go) until gVisor has
// let go of the connection. What gVisor does not count is kept small: small segments are
// copied (receive.go), and small writes make the send buffer smaller (overhead.go).
//
// Timers: TCP's, which gVisor arms on the shard (clock.go); one for
// acknowledgements that wait for an answer (ack.go); one that gives memory back
// some seconds after a connection has closed (release.go).
//
// What it does not do: it opens no host socket and knows neither NAT nor
// policy.
package stack
