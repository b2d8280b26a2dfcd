// Package flow is the table of everything that is under way between a guest and
// the host: connections being made and established ones, UDP mappings, pings,
// clients of published ports and of exposed ones.
//
// # Theory of operation
//
// A Flow is the record of one of these, whatever code moves its bytes: that code
// is its Owner. A Table holds the flows of one shard. It is the only place that
// knows how many there may be, which one is evicted, when an idle one ends, and
// how flows are listed and counted.
//
// Life of a flow: Admit makes room, Add enters the record, Used notes traffic,
// Establish says that a connection has both of its ends, and Remove takes the
// record out. The table may end a flow by itself: because its idle time is over,
// because another needs its place or its descriptor, or because the table is
// closed. It then takes the record out and calls Owner.End.
//
// Limits are per Kind. Flows of some kinds may be evicted: the least recently used one
// makes room for a new one, chosen among the guest addresses that have at least their
// fair share of the kind. Flows of other kinds, above all established connections, are
// not, and a new one is refused.
//
// Invariants: everything happens on the shard's thread; a flow is in the table
// from Add until Remove or End, once; flows of a kind are ordered by last use.
//
// Timers: one for the whole table, armed only while a flow can expire. It fires
// when the next one may be due, and at most once a second.
//
// What it does not do: it opens and closes no descriptor and decides nothing
// about addresses (package policy does).
package flow
