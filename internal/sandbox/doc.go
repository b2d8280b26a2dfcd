// Package sandbox takes from the running program what it no longer needs once
// everything is open, so that whoever subverts it by what the guest sends gains
// little.
//
// # Theory of operation
//
// A program with threads cannot change its root or its namespaces, and needs not: it
// gives up the right to reach files and to make system calls instead, which takes no
// privilege. [Confine] does it in layers, for all threads and for good:
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
// The last two overlap on purpose. Landlock knows paths, but an older kernel has none,
// or less of it; seccomp knows no paths, but refuses every opening for writing.
//
// # Refusal
//
// A call that is not on the list fails with EPERM, and the program goes on: a runtime or
// library that asks for something new has a way around, and the guest's network must
// not end because of it. The calls by which an intruder would go on (execve, ptrace,
// mount, setns and the like) are none that a library tries, and they end the
// process: whoever makes one of them is not this program any more.
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
// Children must have been started before: they keep their rights. Signals to them pass
// as long as they are named in Config.Children.
//
// What it does not do: restrict which hosts are connected to. Connecting is what the
// program is for, and package policy decides on it.
package sandbox
