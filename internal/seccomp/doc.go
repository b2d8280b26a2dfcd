// Package seccomp builds filters of system calls from lists of rules and installs
// them on all threads.
//
// # Theory of operation
//
// The kernel runs a program of classic BPF before each system call of a filtered
// process (seccomp(2)). A [Filter] lists the calls that are permitted, with the
// values that arguments may have, and the calls that end the process; [Filter.Build]
// writes the program, [Install] hands it to the kernel.
//
// The rules become comparisons, one after the other. That is cheap: for a call that is
// permitted whatever its arguments, the kernel finds out at installation that the program
// never looks at them, and does not run it again (Linux 5.11, kernel/seccomp.c,
// seccomp_cache_prepare). Only calls whose arguments are compared run it each time.
//
// Arguments are compared in their lower 32 bits: the kernel takes those that rules are made
// for (families, flags, requests, descriptors, process ids) as 32-bit integers, or ignores
// the upper half. A filter cannot follow pointers, so it cannot check what is in memory
// (paths, addresses).
//
// A call in another convention than the program's own (32-bit or x32 on amd64), where
// numbers mean other calls, ends the process.
//
// Filters exist for amd64 and arm64; elsewhere Build returns errors.ErrUnsupported.
//
// What it does not do: decide what is permitted; callers do.
package seccomp
