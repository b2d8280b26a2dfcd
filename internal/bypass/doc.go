// Package bypass moves busy TCP connections between two members of a network off the bridge, so
// that the members' kernels carry them.
//
// # Theory of operation
//
// A frame between members costs the network's process two system calls and two copies. A
// connection that moves much is therefore given a socket in either member's namespace, in
// repair mode, as its other end (package repair), and the two sockets are joined by splice(2),
// which copies nothing:
//
//	member A ── lo ── socket ═══ splice ═══ socket ── lo ── member B
//
// Both kernels go on with the sequence numbers they had, and neither program notices. The two
// sockets are spliced by the client of the member that has asked for the connection, or by the
// network's keeper where it has none, and not by the worker, which may be killed or upgraded
// without ending connections between members.
//
// # Life of a hand-over
//
//  1. The bridge finds a connection busy (bridge.Conn), and Manager.Busy asks both members'
//     agents for sockets. repair.Occupied says whether a socket is there to be continued.
//  2. The agent of the member that sends more has its kernel hold the connection's segments,
//     which the kernel keeps, and Port.ReadAll forwards those on the way. When the other member
//     has acknowledged them, its kernel holds its segments as well.
//  3. Each socket is restored (Conn.Frozen), and the bridge drops the connection's segments: one
//     may still have been on its way when its kernel was told to hold. What a member has sent and
//     the other one, held back, has not acknowledged is in the queue of the other's socket, as if
//     that had sent it. Where it is too much for that the connection stays.
//  4. The agents route the members' segments to the sockets, and take these out of repair
//     mode, the second member's first. When both members' kernels have answered, the sockets
//     are handed to a client (Member.Take), and the bridge drops what it still sees of the
//     connection.
//  5. Ended, or Leave for a member, removes the routes.
//
// A lo that is down or filtered passes no answer: as long as a socket has heard nothing, it is
// put back into repair mode and closed in silence, and the connection stays on the bridge. Where
// nothing is known of either member's lo, the sockets take no data, and only find out about one of
// the two; the next time the one of which nothing is known comes first. Whatever else fails or
// takes too long leaves the connection on the bridge as well. It is tried again when it has moved
// twice as much.
//
// Invariants: all on the shard's thread. Connections that are handed over, or about to be, are
// bounded by mostCarried. A member's lo is tried by one connection at a time until it has passed
// one.
//
// Timers: one for each hand-over, and one for members that have to come back after the worker
// was replaced (claimPatience).
//
// What it does not do: it splices nothing, and does not know how the sockets get to a client.
package bypass
