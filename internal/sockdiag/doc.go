// Package sockdiag tells which ports of a network namespace have servers.
//
// # Theory of operation
//
// A netlink socket of the family NETLINK_SOCK_DIAG (sock_diag(7)) lists the sockets of the
// namespace that it was made in, whoever asks by it from where. So one that was made in a
// guest's namespace is handed to New, and the guest's servers can be asked for at any
// time, after the program is confined too, without opening a file.
//
// Ports is one dump of each family: for TCP of the sockets that listen, for UDP of those
// that are bound and not connected. What the kernel sends is read message by message into
// one buffer and noted in a bitmap, so a dump takes the same memory however many servers
// there are. It takes about a microsecond for each server, so it is for a goroutine
// of its own and not for a shard's thread.
//
// Invariants: nothing that the kernel sends is kept but the bitmap; a dump that failed
// halfway leaves no answer behind that the next one could take for its own.
//
// Timers: none. How often to ask is the caller's to say.
//
// What it does not do: it knows no rule, and follows nothing by itself: the kernel has
// no event for a socket that begins to listen.
package sockdiag
