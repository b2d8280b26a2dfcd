// Package sockdiag tells which ports of a network namespace have servers.
//
// # Theory of operation
//
// A netlink socket of the family NETLINK_SOCK_DIAG (sock_diag(7)) lists the sockets of the
// namespace that it was made in, whichever process asks. So New takes one that was made in a
// guest's namespace, and can list the guest's servers at any time without opening a file,
// also after the program is confined.
//
// Ports is one dump of each family: for TCP of the sockets that listen, for UDP of those
// that are bound and not connected. What the kernel sends is read message by message into
// one buffer and noted in a bitmap, so a dump takes the same memory however many servers
// there are. It takes about a microsecond for each server, so it belongs on a goroutine of
// its own, not on a shard's thread.
//
// Invariants: of what the kernel sends only the bitmap is kept; the next dump cannot mistake
// the remaining answers of a failed one for its own.
//
// Timers: none. The caller decides how often to ask.
//
// What it does not do: it knows no rule, and follows nothing by itself: the kernel has
// no event for a socket that begins to listen.
package sockdiag
