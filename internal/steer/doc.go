// Package steer deals the frames of one guest out to its workers.
//
// # Theory of operation
//
// A guest with several queues has as many workers: a worker is a queue of the TAP, a
// shard, and a stack with what stands on it. Workers share no flow. The worker that
// a frame belongs to, its owner, is a function of the frame alone (owner.go):
//
//   - TCP goes by both endpoints, and an ICMP error about TCP by those that it
//     quotes;
//   - UDP goes by the guest's endpoint, whatever the destination, so that one
//     mapping serves all of them (RFC 4787);
//   - fragments go with the first of their datagram (fragments.go);
//   - everything else belongs to worker 0: ARP, neighbour discovery, echo, DHCP, the
//     DNS address, and whatever is malformed.
//
// A frame does not show whether the flow was begun by us, towards the guest. Such flows
// belong to worker 0, too, and are claimed (claims.go).
//
// The kernel deals frames out by itself: to the queue that the flow was last
// answered by, for 3 s, and else by a hash of its own with a secret key
// (tun_automq_select_queue in drivers/net/tun.c). Answers are written by the
// owner, so after the first one a flow arrives where it belongs. A frame that
// does not is copied into its owner's inbox, and the owner's shard is told when the
// batch that it was read in is over.
//
// A Worker does this below the stack: it is the stack.Device of its queue, and hands
// out the frames in its inbox before it reads the queue, as they are older. A frame
// read for another worker looks like an interrupted read, so it counts in the batch of
// its reader.
//
// Frames of one flow stay in order while they come by one queue. While a flow
// changes queues, a frame may overtake those in the inbox, as on any card with
// several queues.
//
// Invariants: no worker waits for another; an inbox is bounded, in frames and
// in bytes, and what does not fit is lost and counted, as in a queue of the TAP;
// headers are read by the stack's own parser.
//
// Timers: none.
//
// What it does not do: it drops no frame for its contents. The owner's stack does.
package steer
