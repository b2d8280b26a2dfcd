// Package nswatch tells when a network namespace that somebody else made is gone, so that
// whoever serves it may end with it.
//
// # Theory of operation
//
// A device of ours keeps its namespace alive, so the kernel never says that a namespace has
// ended. What ends is the way by which its owner reaches it, and for each kind there is one
// descriptor that becomes ready by itself:
//
//	PID, /proc/PID/ns/net,  a pidfd: the process has ended (pidfd_open(2))
//	/proc/PID/root/...
//	any other path          /proc/self/mountinfo: something was mounted or unmounted
//
// A path that is a network namespace and not in /proc is a mount (ip-netns(8)). The file
// under a mount can be removed only by unmounting it: here, or in another mount namespace,
// and then the kernel unmounts it here (detach_mounts in fs/namespace.c). So the table of
// mounts changes with every way to lose the path, and no directory has to be watched, for
// which a user has 128 descriptors (fs.inotify.max_user_instances). When the table has
// changed, the path is looked at again.
//
// # Life
//
// A watch is opened before the namespace is joined, and its first look is Wait's, so that
// nothing is missed in between. Nothing is polled, and there are no timers. After it is
// open it only makes the system calls poll and stat.
//
// What it does not do: it does not know processes of another PID namespace than ours, and
// does not follow a path whose directory is renamed.
package nswatch
