// Package nswatch tells when a network namespace that another program made is gone, so that
// we can end with it.
//
// # Theory of operation
//
// A device of ours keeps its namespace alive, so the kernel never reports its end. What ends
// is the owner's way to reach it, and for each kind there is one descriptor that becomes
// ready by itself:
//
//	PID, /proc/PID/ns/net,  a pidfd: the process has ended (pidfd_open(2))
//	/proc/PID/root/...
//	any other path          /proc/self/mountinfo: something was mounted or unmounted
//
// A path that is a network namespace and not in /proc is a mount (ip-netns(8)). The file
// under a mount can be removed only by unmounting it: here, or in another mount namespace,
// and then the kernel unmounts it here (detach_mounts in fs/namespace.c). So the table of
// mounts changes whenever the path is lost, and no directory has to be watched, for which a
// user has only 128 descriptors (fs.inotify.max_user_instances). When the table has changed,
// the path is looked at again.
//
// # Life
//
// A watch is opened before the namespace is joined, and Wait looks first, so that nothing is
// missed in between. There is no periodic polling and no timer. Once open, a watch only makes
// the system calls poll and stat.
//
// What it does not do: it does not know processes outside our PID namespace, and does not
// follow a path whose directory is renamed.
package nswatch
