// Package gate applies an egress policy to the flows of a guest.
//
// # Theory of operation
//
// A Gate stands before policy.Rules: what they refuse, serve or drop stays so; what they
// allow needs the consent of an egress.Policy as well. Set replaces the policy as a whole. A
// guest without a policy has no Gate.
//
// # Life of a connection to a name
//
//  1. The guest asks for the name. Answer gives a synthetic address, or says that there
//     is none, without asking a nameserver.
//  2. The guest connects to the address. Decide finds the name, asks the policy about it
//     and the port, and has the forwarder wait for the look-up, which is made only now. Its
//     answer is kept for its TTL, at most maxKept.
//  3. The policy decides about each address found as one of that name, so that a name does
//     not lead to the host or a private network by itself. The allowed ones are tried in
//     turn.
//  4. A watch sees what the guest sends first (hello.go): a name in there must be the
//     one that the address stands for.
//  5. The flow's end is recorded, or its refusal.
//
// Datagrams have no beginning: a talk (talk.go) is the datagrams between a guest's port and
// one address. It remembers where the name led, under which address the guest sees the peer,
// and what has been read of QUIC.
//
// # Life of a policy
//
// Under a new policy, flows allowed before go on, or with flows kill end at once if it denies
// them.
//
// A member of a network may have flows before it has a policy, and so a gate. Its datagrams were
// noted meanwhile (before.go) and are talks of the new gate, and its UDP clients are watched. Its
// connections are not: nobody knows by which names they go, so that the first policy with flows
// kill ends them all.
//
// # Several gates
//
// A guest whose device has several queues has a gate for each, with one Memory: a name that
// one of them has answered leads to the same place in all. Members of a network have a gate
// and a memory each, so that none learns another's names. Limits are divided (Config.Share).
//
// Invariants: a Gate belongs to its shard's thread. Its tables and its records
// (egress.Recorder) are bounded. Names keep their addresses for as long as the Memory lives.
//
// Timers: one that flushes the record; one that forgets talks.
//
// What it does not do: it does not judge traffic to the services that we serve ourselves, nor
// to exposed ports, which the command line names.
package gate
