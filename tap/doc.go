// Package tap makes a TAP device in namespaces that belong to somebody else, as
// a plain user, and hands out the file descriptor through which its frames pass.
//
// # Theory of operation
//
// Purpose: given a process, a namespace path or an open descriptor, get a TAP
// fd that lives in the guest's network namespace while this process stays in
// its own, where its sockets belong.
//
// A Go program cannot join a user namespace: setns(2) with CLONE_NEWUSER is
// refused to a multithreaded process. But a descriptor keeps the network
// namespace in which it was opened, whoever uses it from where. So the work is
// split over two processes:
//
//	parent                         child
//	resolve the target: open its
//	  namespaces, ask who owns them
//	clone ------------------------> setns, die with parent
//	                                open /dev/net/tun and a netlink socket
//	receive <---------------------- descriptors (SCM_RIGHTS), or an error
//	reap                            exit
//	create or attach to the device
//	configure it when asked
//
// The child is a copy of one thread of a Go program and executes nothing: a
// program started anew inside would be dearer than all the rest. What it does is
// a list of system calls laid out before (fork.go, insidechild.go), nosplit and
// without allocation. Everything that decides is the parent's, and ordinary Go.
//
// The kernel asks of the one who uses these descriptors, too, whether he may
// (TUNSETIFF, netlink_ns_capable). We may: the user who made a user namespace
// has every capability in it, seen from outside, and root of an enclosing one
// has those that he has there (user_namespaces(7)).
//
// # Which namespaces are joined
//
// The owner of the network namespace is asked of the kernel (ioctl_ns(2),
// NS_GET_USERNS), not guessed. When the owner is the user namespace in which we
// already are, only the network namespace is joined, because joining one's own
// user namespace is EINVAL. Otherwise both are: with one setns on a pidfd when
// the target is a process that lives in the owner, else owner first, then
// network namespace. Nothing is joined when the network namespace is our own.
// Linux 5.8 is needed for a process as target (setns on a pidfd).
//
// # Device
//
// A device that does not exist is created non-persistent: it vanishes with the
// last copy of its fd, whatever kills us. One that exists (made persistent by
// the caller) is attached to and outlives us; its offloads are switched off
// again by Close. A device to which another program is attached is tried again
// for one second, since a predecessor may be about to die.
//
// It has one queue. The kernel gives a device that may have more
// (IFF_MULTI_QUEUE) 256 of everything: bringing it up takes 1.1 ms instead of
// 0.1, and 5.6 MB of the kernel's memory.
//
// Unless NoOffload is set, frames carry a virtio-net header (VIRTIO 1.2,
// 5.1.6, without num_buffers: 10 bytes, little-endian), and checksum and
// segmentation offloads are negotiated down to what the kernel takes. What was
// got is asked back: the header by TUNGETIFF, the features by ethtool.
//
// # Agent
//
// A socket keeps the network namespace it was made in. An Agent is a process
// that stays in the guest's namespaces and makes TCP sockets for us there, in
// batches, so that a published port need not go through the device. Who takes
// sockets orders more, and receives what has come, without waiting; a goroutine
// does what has to wait: the first batch, making good what is missing later, and
// failures.
//
// The guest's root has every capability over processes of its user namespace,
// and shares our user id; it must not be able to look into one that carries our
// code and memory. A process that is not dumpable may be traced only from the
// user namespace in which its program was executed (ptrace(2), mm->user_ns).
// So the agent, like every child, executes nothing and is not dumpable from
// before setns on. It runs a loop of system calls laid out in agentchild.go, and
// keeps one descriptor and at most CAP_NET_ADMIN. The guest can kill it, as it
// can kill us; then there are no more sockets.
//
// Where the namespace is ours to configure, policy routing is set up in it first
// (policy.go), and the sockets are transparent: bound to any address, they talk
// to the guest's servers within the kernel. What is changed in the guest: three
// rules and a table per family, net.ipv4.tcp_fwmark_accept and
// net.ipv4/ipv6.fwmark_reflect, none of which touch packets without our mark.
//
// # Listening
//
// Listen has a child of the first kind make TCP sockets that listen in the guest,
// up to 64 at a time. They are bound there because the right to take a port below
// 1024 is asked of the process that binds; what is done with a socket afterwards
// needs no right at all.
//
// # Invariants
//
//   - The parent reaps every child it made, on every path, and the child dies
//     with its parent (PR_SET_PDEATHSIG; the thread that cloned it is held until
//     it is reaped, because the signal follows that thread).
//   - Every descriptor is close-on-exec; the agent keeps its socket only, and any
//     other child is reaped before its parent goes on.
//   - What Listen returns listens at the very address that was asked for.
//   - What the agent sends is a fresh TCP socket of the one namespace, or it is
//     the last that is taken from it. Its pool is bounded.
//   - An error is one line with cause and remedy, and wraps the errno.
//
// # Timers
//
// The second for which a busy device or port is tried again; orderPause, while
// the agent has nothing to give.
//
// # What it does not do
//
// It knows nothing of what the frames mean, runs no program, sets no IPv6
// address (the kernel configures itself from router advertisements),
// touches no resolver file, and does not switch queues: one fd is one queue.
package tap
