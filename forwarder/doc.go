// Package forwarder is the guest's way out: it turns the guest's connections,
// datagrams and echo requests into ordinary sockets of the host.
//
// # Theory of operation
//
// A Forwarder is the stack's Handler and lives on the shard's thread. It asks the
// policy (internal/policy) about every SYN, datagram and echo request of the guest,
// and about every reply; the answer may come later, and meanwhile the dial or a
// copy of the packet waits. Flows are recorded in a table (internal/flow), which
// bounds and expires them. There are two kinds:
//
// A TCP flow begins as a dial: a non-blocking connect. The guest's SYN stays
// unanswered until the host has an answer, so that the guest sees what the host
// saw: a SYN-ACK, a RST, an ICMP error, or silence. Retransmitted SYNs keep the
// dial alive; when too many are under way, the one whose SYN was seen longest ago
// is given up, so dead destinations cannot hold up live ones. After the guest's
// handshake the relay (internal/relay) moves the bytes.
//
// A mapping (mapping.go) is one unconnected socket per guest address and port
// (UDP) or echo id, whatever the peer: endpoint-independent mapping in the
// words of RFC 4787. Filtering is endpoint-independent as well: whoever learns
// the host port may answer, as STUN and hole punching expect. Mappings expire
// when idle, and the least recently used one makes room for a new one.
//
// Invariants: every host socket belongs to one dial or mapping and is closed with
// it, or is handed to the relay; all sockets together stay below the descriptor
// limit; no more packets wait for a decision than policy.Backlog takes.
//
// Timers: mappings 240 s idle (10 s if used for DNS alone); dials are timed by
// the host's kernel and by the guest's.
//
// What it does not do: it listens nowhere, blocks nowhere, and starts no
// goroutine of its own.
package forwarder
