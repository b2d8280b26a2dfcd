// Package cli is the program's two faces: the slirp4netns-compatible attach
// command and the run command, from an argument vector to an exit code.
//
// # Theory of operation
//
// A command line goes through three stages, each with a result that a test can compare with
// the contract:
//
//  1. getopt reads the arguments the way GNU getopt_long(3) does
//     (abbreviations, clusters, options after operands) and rewrites them in one
//     plain form. Callers rely on getopt's behaviour, so it is part of the
//     contract.
//  2. pflag sets them, left to right; every flag's value checks itself when it
//     is set, so that the first fault wins and -h and -v act at once.
//  3. ParseAttach and ParseRun check the whole and derive the rest from it
//     (the address plan, the MAC address).
//
// Parsing ends the program with an [Exit]: a code and the exact text for both
// streams. Only Main writes or starts anything.
//
// # Life of attach
//
// Ports are bound first, on the host and in the guest, so that a busy one leaves nothing half
// done; then the device is made. Once the stack serves the device, the ready byte is written.
// From then on the program ends when the exit fd hangs up (code 0), when the TAP vanishes
// (code 1 and one message), when the target ends (--exit-with-target, code 0), or by the
// default action of a signal: nothing needs cleaning up, because the kernel removes the TAP
// with its last descriptor. Only SIGHUP has a handler, if there is a policy file: it has that
// read again.
//
// # Life of run
//
// The command lives in namespaces made for it (package namespace); the program
// itself stays outside as its network. Signals are passed on, and the command's
// exit status becomes ours.
//
// # Invariants
//
// Every flag in --help works: callers search the help text to decide what to use. Everything
// is open before the program is confined (package sandbox), and it is confined before it is
// ready. Descriptors named on the command line are looked at before the program opens
// anything, so that a number that is not open can never come to mean a descriptor of our own.
//
// The package moves no packet and knows no protocol: that is package guest.
package cli
