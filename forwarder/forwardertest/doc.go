// Package forwardertest is a guest without a namespace: a frame device made of
// a socket pair, and what may sit at the far end of it.
//
// # Theory of operation
//
// Pipe makes a Device, which a stack takes for a TAP, and the Port behind it.
// Both ends carry one Ethernet frame per message (SOCK_SEQPACKET), so the
// device polls, reads and writes as a TAP does, and a full queue loses frames
// as a TAP's does. A test drives the Port frame by frame (frames.go), or hands
// it to a Guest, which is a whole netstack with the guest's addresses
// (guest.go).
//
// Closing the Port is how the device vanishes: from then on its reads say
// EBADFD, as those of a TAP that was deleted.
//
// Invariants: nothing here looks at the code under test; what a Guest sees is
// what gVisor makes of the frames.
//
// Life: Pipe, use, Close of both ends. A Guest closes nothing that it did not
// open. No timers.
//
// What it does not do: it opens no TAP and enters no namespace.
package forwardertest
