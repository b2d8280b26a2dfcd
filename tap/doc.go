// Package tap makes a TAP device in namespaces that belong to somebody else, as
// a plain user, and hands out the file descriptor through which its frames pass.
//
// # Theory of operation
//
// A Go program cannot join a user namespace: setns(2) with CLONE_NEWUSER is
// refused to a multithreaded process. But a descriptor keeps the network namespace
// in which it was opened, wherever it is used. So the work is split over two
// processes:
//
//	parent                         child
//	resolve the target: open its
//	  namespace, ask who owns it
//	clone ------------------------> setns, die with parent
//	   (waits)                      open /dev/net/tun and a netlink socket
//	                                send them (SCM_RIGHTS), or an error
//	reap, receive                   exit
//	create or attach to the device
//	configure it when asked
//
// The child continues one thread of this program, in its memory (CLONE_VM|CLONE_VFORK),
// and executes nothing: to start a program inside, or only to copy this one, would take
// longer than all the rest. It runs a list of system calls laid out before (program.go,
// request.go), nosplit and without allocation. All decisions are the parent's, in ordinary
// Go.
//
// The kernel checks the user of these descriptors as well (TUNSETIFF,
// netlink_ns_capable). We pass: the user who made a user namespace has every
// capability in it, seen from outside, and root of an enclosing one has those that
// it has there (user_namespaces(7)).
//
// The kernel says which namespaces to join (ioctl_ns(2), NS_GET_USERNS): the network
// namespace, unless it is our own, and first the user namespace that owns it. A user
// namespace that we are in already is skipped, because setns would fail with EINVAL.
//
// # Device
//
// A device that does not exist is created non-persistent: it vanishes with the
// last copy of its descriptor, whatever kills us. One that exists, made by Make or
// by the caller, is attached to. It outlives us, and Close switches its offloads off
// again, unless Transient ends its persistence. A device to which another program is
// attached is retried for a second, because a predecessor may be about to die.
//
// Processes may share a device by passing its descriptor (SCM_RIGHTS): one opens it,
// the others adopt it (Target.FD). All copies are one open file description, and
// what one sets holds for all: an adopter asks for the same offloads again, and leaves
// them on. Configure and Remove need no descriptor, so any process may call them.
//
// A device has one queue unless more are asked for. The kernel gives one that may
// have more (IFF_MULTI_QUEUE) 256 of everything: bringing it up takes 1.1 ms
// instead of 0.1, and 5.6 MB of the kernel's memory.
//
// Unless NoOffload is set, frames carry a virtio-net header (VIRTIO 1.2, 5.1.6,
// without num_buffers: 10 bytes, little-endian), and as many checksum and
// segmentation offloads are on as the kernel takes.
//
// With LoopbackOnly there is no interface. A guest that is served by its sockets alone has
// a Device all the same, on which nothing happens, so that there is one way to serve.
//
// # Agent
//
// An agent is a child that stays in the guest's namespaces, with a copy of our memory. It
// makes TCP sockets there, in batches, so that a published port need not go through the
// device. Its socket is a descriptor of a shard: orders are writes, answers are events, and
// waiting clients are a list. One goroutine holds the thread that forked the agent, and
// reaps it.
//
// The agent's process (AgentProcess) and its sockets (Agent) may belong to different
// processes of ours: one has the guest and forks the agent, and passes the socket to the
// one that serves the guest (AdoptAgent). A socket serves one Agent at a time. Each marks
// its orders, and so the answers, with a tag of its own, so that a successor, after a crash
// say, can tell what its predecessor has ordered and never received.
//
// The guest's root has every capability over processes of its user namespace, and
// shares our user id; it must not be able to look into one that carries our code
// and memory. A process that is not dumpable may be traced only from the user
// namespace in which its program was executed (ptrace(2), mm->user_ns). So a child
// executes nothing and is not dumpable from before setns on, except one that becomes a
// program in the guest (Enter). The agent keeps two descriptors and at most
// CAP_NET_ADMIN, and a filter permits it only the system calls of its loop
// (agentfilter.go). The guest can stop or kill it; clients are then told that there are
// no sockets, or give up waiting by their own timers.
//
// Where the namespace is ours to configure, policy routing is set up in it first
// (policy.go), and the sockets are transparent: bound to any address, they talk
// to the guest's servers within the kernel. This adds three rules and a table per
// family to the guest, and sets net.ipv4.tcp_fwmark_accept and
// net.ipv4/ipv6.fwmark_reflect, none of which touch packets without our mark.
//
// The agent also helps to hand connections over from the device to the guest's kernel
// (carry.go): it makes sockets in repair mode, adds and deletes rules for single connections
// by an rtnetlink socket of its own, and takes a socket that comes with an order out of
// repair mode. The program itself has given up the capabilities for that. An agent that does
// nothing else (AgentConfig.NoStreams) adds the table and no more. Rules left by a predecessor
// that was killed are deleted at the start.
//
// # Several networks
//
// A namespace may have a device and an agent for each of several networks. The mark, the
// table and the priorities of the direct path are common to all: the rules differ by
// subnet, and lead to the namespace itself whichever agent has added them. A default route
// comes after those that were there (Network.Shared). What is sent from a device's address
// goes by the device's gateway (wayback.go), since its network takes no other address, and
// no other network takes this one. These rules stay when the device has gone, and lead
// nowhere.
//
// # Invariants
//
//   - Every child is reaped on every path, and dies with its parent
//     (PR_SET_PDEATHSIG, which follows the thread that cloned it).
//   - Every descriptor is close-on-exec.
//   - What a child sends is checked: sockets are fresh, of the kind that was asked
//     for, and an agent's of the one namespace.
//   - The stocks of sockets and the lists of clients that wait are bounded.
//   - An error is one line with cause and remedy, and wraps the errno.
//
// Timers: the second for which a busy device is tried again; topUp, while the agent's
// stocks are not full.
//
// # What it does not do
//
// It does not interpret frames, runs no program but this one anew (Enter), touches no
// resolver file, and does not switch queues: one fd is one queue.
package tap
