// Package portfwd publishes ports: it listens on the host and carries clients
// in to servers of the guest.
//
// # Theory of operation
//
// A Manager holds the rules in force. Add binds every port of a rule at once,
// on the caller's goroutine, so that what is wrong is known before anything is
// promised, and then hands the sockets to the shard, which does the rest
// without a goroutine per port or per client.
//
// A TCP client is accepted, and the stack connects to the guest's server as if
// from the client's own address and port: that is what the server sees. When
// the guest accepts, the relay joins the two; when it refuses, the client is
// reset; when it stays silent, the client is reset after dialTimeout.
//
// A UDP client's datagrams are sent on in the same way. A session per client
// remembers which of the host's addresses was asked, so that replies leave from
// there; the forwarder offers us what the guest sends before it looks for a
// mapping of its own.
//
// Clients that the guest could not answer by their own address are seen as the
// gateway (see visible): those on the host's loopback, foremost.
//
// Invariants: sockets that wait in a listener's queue are never lost to a full
// table, only delayed; every accepted socket belongs to one attempt or to one
// flow of the relay and is closed with it; sessions are bounded, the least
// recently used making room.
//
// Life of a rule: Add, then serving, then Remove or Close, which close the
// listeners; connections that were carried in live on.
//
// Timers: dialTimeout per attempt, sessionIdle per UDP session, acceptPause
// when the process is out of descriptors.
//
// What it does not do: it parses no JSON, and asks nobody for permission.
package portfwd
