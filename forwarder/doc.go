// Package forwarder is the guest's way out: it turns the guest's connections,
// datagrams and echo requests into ordinary sockets of the host.
//
// # Theory of operation
//
// A Forwarder is the stack's Handler and lives on the shard's thread. What the
// guest sends passes the Policy of the Config first (decide.go). There are two
// kinds of flow, both with a record in the flow.Table:
//
// A TCP connection begins as a dial (dial.go): a non-blocking connect. The guest's
// SYN stays unanswered until the host has an answer, so that the guest sees what
// the host saw: a SYN-ACK, a RST, an ICMP error, or silence. Retransmitted SYNs
// keep the dial alive; when too many are active the one retried longest ago is
// evicted, so dead destinations cannot hold up live ones. After the guest's
// handshake the relay (internal/relay) moves the bytes.
//
// A mapping (mapping.go) is one unconnected socket per guest address and port
// (UDP) or echo identifier, whatever the peer: endpoint-independent mapping in the
// words of RFC 4787. Filtering is endpoint-independent as well: anybody who learns
// the host port may send to it, as STUN and hole punching expect.
//
// Where ping sockets are refused, one raw socket for each family carries the
// mappings of echo, each under an identifier of its own (rawecho.go).
//
// Errors (errors.go): an ICMP error that the host's kernel has received goes on to the
// guest with its type and code; an error without a message becomes one that makes the
// guest's kernel report the same errno. A RST is only for connections that the peer has
// refused.
//
// Invariants: every host socket belongs to one dial or mapping, to the mappings of
// echo of one family, or was given to the relay, and is closed with it.
//
// Timers: none of its own. Mappings expire in the table, after 240 s without
// traffic (10 s once the guest's DNS queries are answered, if it has sent nothing else:
// dnstalk.go); dials are timed by the host's kernel and by the guest's.
//
// What it does not do: it decides nothing about addresses, listens nowhere, blocks
// nowhere, and starts no goroutine.
package forwarder
