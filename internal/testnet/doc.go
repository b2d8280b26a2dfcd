// Package testnet is what tests put around a stack: a frame device in memory,
// frames for it, a guest with a netstack of its own, and checks for leaks.
//
// # Theory of operation
//
// A Device is a TAP that lives in memory. What a test injects, the stack
// reads; what the stack writes is kept, or given to a function. It obeys the
// contract of a TAP queue where the stack can see it: one frame per read, a
// descriptor that polls readable while a frame waits, EAGAIN when none does,
// EBADFD once it is gone, and frames lost when the queue is full. Its Port is
// the guest's end, with frames as the guest's kernel would see them.
//
// UDP, TCP, SYN, Echo, ICMP and ARP build frames, valid unless a test spoils
// them; a Packet builds every other IP packet. Parse takes frames apart and
// refuses any whose lengths or checksums are wrong, so a test that parses what
// the stack sent has checked it.
//
// A Guest is a gVisor netstack at the far end of a Device, with the guest's
// addresses. An Impairment of the Device loses, doubles and reorders frames,
// decided by a seed.
//
// CheckLeaks fails a test that leaves goroutines or descriptors.
//
// Invariants: nothing here looks at the code under test, and everything that
// was started ends with the test.
//
// Timers: one for each direction of an impaired device, which releases a frame
// that was held back when no other follows it.
//
// What it does not do: it opens no TAP, enters no namespace and is no model of
// a kernel. Real guests are the business of the end-to-end tests.
package testnet
