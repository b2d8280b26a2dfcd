// Package policy decides which flows there may be, and between which addresses.
//
// # Theory of operation
//
// Every flow of every guest, out and in, TCP, UDP and ICMP, to our own services,
// by the device, by a published port or by an exposed one, is a Request that
// passes a Decider before a host socket is opened, a server of the guest is
// connected to, or a datagram leaves. Each datagram of a UDP mapping asks, in
// either direction, since every one may name another peer.
//
// Rules is the Decider: a function of the request and of what the command line says, and
// of nothing else but the host's main address and first nameserver, which are asked for
// at each flow and so are those of the moment. Nothing else in the program translates or refuses an address. Its
// table test is the security boundary written down. What an internal network may
// not do is not one rule more but a filter behind all of them: nothing is allowed.
//
// Where a user has written rules about names, networks and ports, another Decider asks
// Rules first, and then those: package gate.
//
// The answer may come later: a Decision with the action Wait carries a Pending,
// which is resolved on the shard's thread. Rules never makes one wait.
//
// What it does not do: it opens nothing, holds no packet and keeps no state but how
// many packets wait for a decision.
package policy
