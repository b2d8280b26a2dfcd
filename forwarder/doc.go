// Package forwarder is the guest's way out: it turns the guest's connections,
// datagrams and echo requests into ordinary sockets of the host.
//
// # Theory of operation
//
// A Forwarder is the stack's Handler and lives on the shard's thread. What the
// guest sends to a new destination first passes Translate (translate.go), which
// maps the gateway to host loopback, finds our own services and refuses what
// must never reach a host socket. There are two kinds of flow:
//
// A TCP flow begins as a dial: a non-blocking connect. The guest's SYN stays
// unanswered until the host has an answer, so that the guest sees what the host
// saw: a SYN-ACK, a RST, an ICMP error, or silence. Retransmitted SYNs keep the
// dial alive; when too many are under way the one not asked for longest is
// given up, so dead destinations cannot hold up live ones. After the guest's
// handshake the relay (internal/relay) moves the bytes.
//
// A mapping (mapping.go) is one unconnected socket per guest address and port
// (UDP) or echo id, whatever the peer: endpoint-independent mapping in the
// words of RFC 4787. Filtering is endpoint-independent as well: whoever learns
// the host port may answer, as STUN and hole punching expect. Mappings expire
// when idle, and the least recently used one makes room for a new one.
//
// Invariants: every host socket belongs to one dial, flow or mapping and is
// closed with it; the number of each is bounded, and all together stay below
// the descriptor limit.
//
// Timers: mappings 240 s idle (10 s if used for DNS alone); dials are timed by
// the host's kernel and by the guest's.
//
// What it does not do: it listens nowhere, blocks nowhere, and starts no
// goroutine of its own.
package forwarder
