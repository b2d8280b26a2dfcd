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
// Rules is the Decider: a function of the request, of the command line, and of the
// host's main address and first nameserver, which are looked up for each flow and so are
// current. Nothing else in the program translates or refuses an address. Its table test is
// the security boundary written down. An internal network is not one more rule but a filter
// after all of them: nothing is allowed.
//
// Where a user has written rules about names, networks and ports, another Decider, package
// gate, asks Rules first and then those.
//
// The answer may come later: a Decision with the action Wait carries a Pending,
// which is resolved on the shard's thread. Rules never makes one wait.
//
// What it does not do: it opens nothing, holds no packet and keeps no state except how
// many packets of each guest wait for a decision.
package policy
