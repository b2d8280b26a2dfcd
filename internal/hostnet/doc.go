// Package hostnet tells what network the host is in: its interfaces, their addresses and
// the routes of its main table, once, and its main addresses at any moment.
//
// # Theory of operation
//
// A guest that stands beside the host gets a copy of what the host has when the guest
// starts (Network.Template); package tap gives it that. What the host has later is
// followed where somebody asks for it at each flow (Watcher.Main). Nothing else needs to
// be: flows leave by sockets of the host, for which its kernel chooses address and way
// anew.
//
// A Watcher has two netlink sockets. By one the kernel says that something has changed,
// and the other asks it what there is now, so that no message is lost between the two.
// Both are opened before the program is confined, and need no further right. It asks
// again only if an address, an interface or a default route has changed, and at most ten
// times a second: a host may have hundreds of thousands of other routes, which change all
// the time.
//
// Invariants: what is asked of the kernel is answered at once, on the shard's thread;
// Main and Has are reads of memory, by any goroutine.
//
// Timers: one, while changes follow each other.
//
// What it does not do: it changes nothing, and knows no guest. Rules of policy routing
// and other tables are the kernel's business.
package hostnet
