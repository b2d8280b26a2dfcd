// Package hostnet reads the host's network: its interfaces, their addresses and the routes of
// its main table once, and its main addresses at any moment.
//
// # Theory of operation
//
// A guest that stands beside the host gets a copy of what the host has when the guest
// starts (Network.Template), through package tap. Later changes are followed only for the
// main addresses, which are looked up for each flow (Watcher.Main). Nothing else needs to be:
// flows leave by sockets of the host, whose kernel chooses source address and route anew.
//
// A Watcher has two netlink sockets. On one the kernel reports changes, and the other asks
// what there is now, so that no message is lost between the two. Both are opened before the
// program is confined, and need no further rights. It asks again only if an address, an
// interface or a default route has changed, and at most ten times a second: a host may have
// hundreds of thousands of other routes, which change all the time.
//
// Invariants: the kernel answers at once, on the shard's thread; Main and Has only read
// memory, on any goroutine.
//
// Timers: one, while changes follow each other.
//
// What it does not do: it changes nothing, and knows no guest. It ignores policy routing rules
// and other tables.
package hostnet
