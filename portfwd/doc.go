// Package portfwd publishes ports: it listens on the host and carries clients
// in to servers of the guest. It exposes ports as well, the other way around:
// clients in the guest to servers on the host's loopback.
//
// # Theory of operation
//
// A Manager holds the rules in force. Bind and Add bind every port of a rule at
// once, on the caller's goroutine, so that errors are known before anything is
// promised; then Serve hands the sockets to the shard, which does the rest without
// a goroutine per port or per client. Each client is a record of the flow.Table and
// passes the Policy of the Config, which says under which address the guest sees it.
//
// A TCP client (tcp.go) is accepted and carried in by one of two paths; on both
// the server sees the client's own address and port. On the stack path the stack
// connects to the server by way of the device. On the direct path (direct.go) a
// socket that was made in the guest's network namespace is bound to the client's
// address and connects, so that the connection is made within the guest's kernel.
// When the guest accepts, the relay joins the two; when it refuses, the client
// is reset; when it stays silent, the client is reset after dialTimeout.
//
// The direct path leads to a guest's own servers only; where several guests share the
// stack, the server's address says whose sockets are used. If it is refused, or has no
// answer within directPatience, the client goes by the stack path, whose outcome counts:
// a guest may forward connections that arrive on its TAP. State left in the guest by the
// failed attempt is reset first, since both attempts use the same address and port. If
// the stack path then answers, or the direct path was silent, clients of the port do not
// try the direct path for avoidFor. A rule that names an address other than the guest's
// has no direct path. Without transparent sockets servers would see the guest's own
// address, so only DirectOnly uses the direct path then. Neither path reaches servers on
// the guest's loopback addresses (B35).
//
// A UDP client's datagrams (udp.go) are sent on in the same way. A session for
// each client remembers which of the host's addresses was asked, so that replies
// leave from there; the forwarder offers us what the guest sends before it looks
// for a mapping of its own. Where several workers serve a guest, we are on one of
// them, and what the guest sends to our clients is claimed for it: the session's
// datagrams by us, a connection's segments by the stack.
//
// The server may see a client of the host's loopback as the guest itself (policy.Rules,
// Splice), which only the direct path can do; by the stack path it is seen as the gateway.
// A UDP client then has a connected socket of the guest's namespace (udpinside.go), and
// waits directPatience for it; the client of an exposed UDP port has one on the host, and
// the rest is the same for both (datagramclient.go).
//
// An exposed port (expose.go) is a socket of the guest's network namespace, made there
// by package tap and bound by us. A client is accepted and connected to the address that
// the rule names, or else to 127.0.0.1 or ::1, whichever family it came by, and to the
// other one if that is refused. If that fails, the client is reset; else the relay joins
// the two. A client of an exposed UDP port (exposeudp.go) has a socket on the host,
// connected to the server. No address comes from the guest: the rule alone says where a
// port leads.
//
// Change adds and removes rules together, all or none: added rules are bound before removed
// ones are closed, and take over their sockets where the place is the same.
//
// Rules with Auto (auto.go) hold the ports that have a server. A goroutine looks for
// servers each second, while there is such a rule, and opens and closes ports accordingly.
// Ports that we hold ourselves do not count: they would lead back.
//
// Invariants: a full table only delays clients that wait in a listener's queue; every
// accepted socket belongs to one client, or to the relay, and is closed with it;
// exposed ports, which the guest uses, have a limit of their own, so that they cannot
// crowd out published ones.
//
// Life of a rule: Add or Change, then serving, then Remove, Change or Close, which close
// the listeners; connections that were carried in live on.
//
// Timers: autoInterval, while there is a rule with Auto; for each client that waits,
// dialTimeout, or directPatience on the direct path; acceptPause when the process is out of
// descriptors. Clients of UDP ports expire in the table, after sessionIdle.
//
// What it does not do: it parses no JSON, and decides nothing about addresses.
package portfwd
