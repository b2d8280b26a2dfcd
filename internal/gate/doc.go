// Package gate applies an egress policy to the flows of a guest.
//
// # Theory of operation
//
// A Gate stands before policy.Rules: what they refuse, serve or drop is refused, served
// or dropped, and what they would allow is asked of an egress.Policy besides. The policy
// is replaced as a whole by Set; without a Gate nothing of this is there.
//
// # Life of a connection to a name
//
//  1. The guest asks for the name. Answer gives a synthetic address, or says that there
//     is none; no nameserver hears of it.
//  2. The guest connects to the address. Decide finds the name, asks the policy about it
//     and the port, and has the forwarder wait for the look-up, which is made then, and
//     kept for as long as its answer says, maxKept at most.
//  3. Each address found is asked of the policy as one of that name, so that a name does
//     not lead to the host or a private network by itself. Those that may be are tried
//     in turn.
//  4. A watch sees what the guest sends first (hello.go): a name in there must be the
//     one that the address stands for.
//  5. The flow's end is recorded, or its refusal.
//
// Datagrams have no beginning: a talk (talk.go) is what a guest's port says to one
// address. It remembers where the name led, under which address its peer is seen, and
// what has been seen of QUIC.
//
// # Life of a policy
//
// What was allowed goes on under another policy, or is ended at once with flows kill.
//
// # Several gates
//
// A guest whose device has several queues has a gate for each, with one Memory: a name
// that one has answered leads to the same place by all. Members of a network have a gate
// and a memory each, so that one knows nothing of another's names. Limits are divided
// (Config.Share).
//
// Invariants: a Gate belongs to its shard's thread. Its tables are bounded, and what it
// writes as well (egress.Recorder). Names keep their addresses for as long as its Memory
// lives.
//
// Timers: one that flushes the record; one that forgets talks.
//
// What it does not do: it does not judge what comes from the guest by the services that
// we serve ourselves, nor what an exposed port leads to, which a command line names.
package gate
