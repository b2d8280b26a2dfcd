// Package stacktest is what the tests of a stack need around it: a frame
// device in memory, frames to feed it, and a guest with a TCP of its own.
//
// # Theory of operation
//
// A Device is a TAP that lives in memory. What a test injects, the stack
// reads; what the stack writes is kept, or given to a function. It obeys the
// contract of a TAP queue where the stack can see it: one frame per read, a
// descriptor that polls readable exactly while a frame waits, EAGAIN when none
// does, EBADFD once it is gone, and frames lost when the queue is full.
//
// Packet, UDP, TCP, ICMP and ARP build frames, valid unless a test spoils
// them; Parse takes frames apart and refuses any whose lengths or checksums
// are wrong, so that a test which parses what the stack sent has checked it.
//
// A Guest is a gVisor netstack at the other end of a Device. An Impairment
// between the two loses, doubles and reorders frames, decided by a seed.
//
// Invariants: nothing of this package allocates on behalf of a stack's own
// allocation tests more than the frames themselves; everything that was
// started ends with the test.
//
// Timers: one, in an impaired link, which releases a frame that was held back
// when no other follows it.
//
// What it does not do: it is no model of a kernel. Real guests are the
// business of the end-to-end tests.
package stacktest
