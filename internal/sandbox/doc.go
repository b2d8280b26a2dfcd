// Package sandbox takes rights from the running program that it no longer needs once
// everything is open, so that an attacker who subverts it through the guest's traffic gains
// little.
//
// # Theory of operation
//
// A program with threads cannot change its root or its namespaces. Instead it gives up the
// right to reach files and to make system calls, which needs no privilege. [Confine] does it
// in layers, for all threads and irrevocably:
//
//	core dumps, tracing   not dumpable: other processes of the user cannot look in
//	user                  Config.User, for a program that root has started
//	rights                no_new_privs; capabilities dropped but for CAP_NET_BIND_SERVICE
//	                      and CAP_NET_RAW, where they are held
//	files                 Landlock: reading in the directories of the files in
//	                      Config.Read, removal of those in Config.Remove, writing in
//	                      the directories of Config.Own; nothing else
//	system calls          seccomp: the list in calls.go
//
// The last two overlap on purpose. Landlock knows paths, but older kernels lack it or parts
// of it; seccomp knows no paths, but refuses to open anything for writing.
//
// # Refusal
//
// A call that is not on the list fails with EPERM, and the program goes on: a runtime or
// library that tries something new has a fallback, and the guest's network must not end
// because of it. The calls by which an intruder would get further (execve, ptrace, mount,
// setns and the like), which no library tries, end the process: the program has been
// subverted.
//
// # Threads
//
// Landlock before ABI 8, and capset, act on the calling thread, so they are made on all
// threads at once by way of libpsx, which in a program without cgo is the Go runtime's
// AllThreadsSyscall. seccomp synchronises threads by itself.
//
// # Invariants
//
// A layer that the kernel does not have is left out, unless Config requires it.
// Children must have been started before: they keep their rights. Only those named in
// Config.Children can be signalled.
//
// What it does not do: restrict which hosts are connected to. Connecting is the program's
// purpose, and package policy decides about it.
package sandbox
