// Package namespace starts a command in user, network and mount namespaces of
// its own, held back until the caller has given it a network.
//
// # Theory of operation
//
// Start clones this program into new namespaces, where it recognises its role
// by argv[0] (IsChild, ChildMain). By default the caller's user becomes root there and is
// the only user; supplementary groups cannot be changed (user_namespaces(7)). Config.IDs can
// keep the caller's own ids, or add subordinate ones, which newuidmap(1) and newgidmap(1) map
// before the child prepares anything. Such a child is not root when it executes itself, and
// keeps what it needs as ambient capabilities, which the command does not get.
// The child prepares what can only be done inside: its resolv.conf, the network
// settings that must be in place before an interface appears, and the TAP, which
// is persistent until the caller attaches to it. It reports, and waits. The caller
// makes the network and calls Release; the child becomes the command by execve, so
// that the command has the child's process id, terminal and process group.
//
// The child stays in its parent's process group and session: it keeps the terminal if the
// parent had it, job control works as if the program were not there, and signals made by the
// terminal reach the command by themselves. Forward passes on all others.
//
// An isolated command is process 1 of a PID namespace, which ends with it. The kernel drops
// signals that such a process does not handle, although they would end any other; so Forward
// sends SIGKILL in their place, and Status reports the signal that was meant.
//
// The command has the host's name, unless Config.Hostname gives it another, in a UTS
// namespace of its own.
//
// # Invariants
//
// The child dies with us: it is killed by the kernel when the thread that
// started it ends (PR_SET_PDEATHSIG), and that thread is kept until the child
// has been waited for. It ends by itself if it is never released. A TAP that
// nobody has attached to goes with the namespace, which only the child is in. The mount
// over resolv.conf exists in the child's mount namespace only, on a file system
// in memory; nothing is written to disk.
//
// # Limits
//
// When the host replaces its resolv.conf by rename, the kernel takes the mount
// over the old one away and the command sees the host's new file. Unless the command is
// isolated, what it leaves running keeps running, without a network. A command that changes
// its user is not killed when we die: the kernel clears the parent-death signal then.
//
// The package keeps no TAP open and handles no packets.
package namespace
