// Package portfwd publishes ports: it listens on the host and carries clients
// in to servers of the guest. It exposes ports as well, the other way around:
// clients in the guest to servers on the host's loopback.
//
// # Theory of operation
//
// A Manager holds the rules in force. Bind and Add bind every port of a rule at
// once, on the caller's goroutine, so that what is wrong is known before anything
// is promised; then Serve hands the sockets to the shard, which does the rest
// without a goroutine per port or per client.
//
// A TCP client is accepted and carried in by one of two paths; on both the
// server sees the client's own address and port. On the stack path the stack
// connects to the server by way of the device. On the direct path it is a
// socket that was made in the guest's network namespace and is bound to the
// client's address, so that the connection is made within the guest's kernel.
// When the guest accepts, the relay joins the two; when it refuses, the client
// is reset; when it stays silent, the client is reset after dialTimeout.
//
// The direct path leads to the guest's own servers only. Where it is refused,
// or has no answer within directPatience, the client goes by the stack path,
// which has the last word: a guest may pass connections on that come by its
// device. What the guest may remember of the failed attempt is ended first, for
// the two have the same address and port. If the stack path answers, clients of
// the port leave the direct path alone for avoidFor. There is no direct path for a
// rule that names an address other than the guest's, nor, unless DirectOnly,
// without transparent sockets, when servers would see the guest's own address.
// Servers on the guest's loopback addresses are reached by neither path (B35).
//
// A UDP client's datagrams are sent on in the same way, and replies (reply.go)
// wait for their neighbours until the guest's batch ends. A session per client
// remembers which of the host's addresses was asked, so that replies leave from
// there; the forwarder offers us what the guest sends before it looks for a
// mapping of its own. Where several lanes serve a guest, we are on one of them, and
// what the guest sends to our clients is claimed for it: the session's datagrams by
// us, a connection's segments by the stack.
//
// An exposed port is a socket that listens in the guest's network namespace, made
// there by somebody else (package tap). A client is accepted and connected to
// 127.0.0.1, or to ::1 where that is refused; it is reset when that fails, and
// else the relay joins the two. No address comes from the guest: the port alone
// says where it leads.
//
// Clients that the guest could not answer by their own address are seen as the
// gateway (see visible): those on the host's loopback, foremost.
//
// Both directions share the listener, the accepted client and the socket that is
// being connected (listener.go, connecting.go).
//
// Invariants: sockets that wait in a listener's queue are never lost to a full
// table, only delayed; every accepted socket belongs to one attempt or visit, or
// to one flow of the relay and is closed with it; what the guest begins, visits,
// is bounded by itself, so that it is not in the way of what it serves; sessions
// are bounded, the least recently used making room.
//
// Life of a rule: Add, then serving, then Remove or Close, which close the
// listeners; connections that were carried in live on.
//
// Timers: dialTimeout per attempt and visit; before it, on the direct path,
// socketPatience and directPatience; sessionIdle per UDP session; acceptPause when
// the process is out of descriptors.
//
// What it does not do: it parses no JSON, and asks nobody for permission.
package portfwd
