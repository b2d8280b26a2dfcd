// Package steer deals the frames of one guest out to its lanes.
//
// # Theory of operation
//
// A guest with several queues has as many lanes: a lane is a queue of the TAP, a
// shard, and a stack with what stands on it. Lanes share no flow. Whose a frame
// is, its owner, is a function of the frame alone (owner.go):
//
//   - TCP goes by both endpoints, and an ICMP error about TCP by those that it
//     quotes;
//   - UDP goes by the guest's endpoint, whatever the destination, so that one
//     mapping serves all of them (RFC 4787);
//   - fragments go with the first of their datagram (fragments.go);
//   - everything else is lane 0's: ARP, neighbour discovery, echo, DHCP, the DNS
//     address, and what nobody understands.
//
// One thing is not in the frame: connections and datagrams that we have begun
// towards the guest. They are lane 0's, too, and claimed (claims.go).
//
// The kernel deals frames out by itself: to the queue that the flow was last
// answered by, for 3 s, and else by a hash of its own with a secret key
// (tun_automq_select_queue in drivers/net/tun.c). Answers are written by the
// owner, so after the first one a flow arrives where it belongs. A frame that
// does not is copied into its owner's inbox, and the owner's shard is told when the
// batch that it was read in is over.
//
// A Lane does all that below the stack: it is the stack.Device of its queue, and
// hands out what is in its inbox before it reads the queue, as those frames are
// older. A frame read for another lane looks like an interrupted read, so it
// counts in the batch of its reader.
//
// Order: frames of one flow stay in order while they come by one queue. While a
// flow changes queues, a frame may overtake those in the inbox, as on any card
// with several queues.
//
// Invariants: nobody waits for another lane; an inbox is bounded, in frames and
// in bytes, and what does not fit is lost and counted, as in a queue of the TAP.
//
// Timers: none.
//
// What it does not do: it judges no frame. One that is malformed has an owner as
// any other, whose stack drops it.
package steer
