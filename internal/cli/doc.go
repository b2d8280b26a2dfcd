// Package cli is the program's two faces: the slirp4netns-compatible attach
// command and the run command, from an argument vector to an exit code.
//
// # Theory of operation
//
// A command line goes through three stages, each a value that a test can hold
// against the contract:
//
//  1. getopt reads the arguments the way GNU getopt_long(3) does
//     (abbreviations, clusters, options after operands) and rewrites them in one
//     plain form. Callers were written against getopt's habits, so they are part
//     of the contract.
//  2. pflag sets them, left to right; every flag's value checks itself when it
//     is set, so that the first fault wins and -h and -v act at once.
//  3. ParseAttach and ParseRun check the whole and compute what follows from it
//     (the address plan, the MAC address).
//
// What ends the program while parsing is an [Exit]: a code and the exact text
// for both streams. Only Main writes or starts anything.
//
// # Life of attach
//
// Ports are bound first, of the host and in the guest, so that a busy one leaves
// nothing half done; then the device is made. When the device is there and the
// stack holds it, the ready byte is written and from then on three things can end
// the program: the exit fd hangs up (code 0), the TAP vanishes (code 1, said
// once), or a signal takes its default action. No signal handler is installed:
// nothing outlives the process, because the kernel removes the TAP with its last
// descriptor.
//
// # Life of run
//
// The command lives in namespaces made for it (package namespace); the program
// itself stays outside as its network. Signals are passed on, and the command's
// exit status becomes ours.
//
// # Invariants
//
// A flag that --help shows works: callers decide what to ask for by searching the
// help text. Everything is open before the program is confined (package sandbox),
// and it is confined before it is ready. Descriptors named on the
// command line are looked at before the program opens anything, so that a
// number that is not open can never come to mean a descriptor of our own.
//
// The package moves no packet and knows no protocol: that is package guest.
package cli
