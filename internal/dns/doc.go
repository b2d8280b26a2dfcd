// Package dns is the resolver behind the plan's DNS address: it carries the
// guest's queries to the host's nameservers and their answers back.
//
// # Theory of operation
//
// The resolver is a forwarder, not a cache. A message passes through byte for
// byte: every record type, EDNS, the case of a name and the TC bit are between
// the guest and the nameserver. Only the 16-bit id is replaced on the way out
// (see "Spoofing") and restored on the way back. What the package itself may
// say is one thing: SERVFAIL, when no nameserver gave any answer. It never says
// NXDOMAIN.
//
// Nameservers come from resolv.conf(5), of either family whatever the family of
// the guest's query, scope ids kept, loopback ones (127.0.0.53) used as they
// stand. The file is looked at for every query over UDP and every connection
// over TCP, so a replaced file counts from the next query on. The look is one
// stat(2), but one that a file system may keep waiting: a goroutine does it, and
// the query waits for the outcome. A guest that asks more than 80 times a second
// does without: 8 looks in 100 ms are made, and the queries in between go by the
// last one. When a look takes longer than Config.Retry, what the file said
// before is used. A missing file means SERVFAIL until it appears; a file without
// a nameserver means the local host, as resolv.conf(5) says.
//
// # Life of a query over UDP
//
// All of it takes place on the shard's thread: Submit copies the query, orders
// the nameservers and sends to the first, and the answer goes from the socket
// straight to the guest. No goroutine is woken, no lock taken, and exchanges are
// used again, so that a query costs no more system calls than a datagram whose
// address is translated. The exchange is driven by events:
//
//   - an answer ends it;
//   - SERVFAIL, NOTIMP or REFUSED is kept, and the next nameserver is asked at
//     once, as resolvers on the host would; when nobody does better, the kept
//     answer is the guest's;
//   - a refusal (ICMP port unreachable) asks the next one at once;
//   - Config.Retry (0.8 s) of silence asks the next one, while the answers of
//     all asked so far still count; after the last one there is one more round
//     against packet loss;
//   - Config.Timeout (4.5 s) ends it with SERVFAIL, just before the 5 s after
//     which the stub resolvers of libc ask again.
//
// A nameserver that stayed silent, and answered nobody else meanwhile, is
// demoted: it goes to the end of the order. After Config.Demotion (10 s,
// doubling to 16 times that) one query is sent to it beside the one to the
// nameserver in favour, so that no client waits for the test; any answer
// reinstates it. UDP and TCP are judged apart, for there are nameservers that
// speak only one of them.
//
// # Life of a stream
//
// Stream gives the data path one end of a socket pair and serves the other with
// the framing of RFC 1035, section 4.2.2. Queries may be pipelined; answers
// leave in the order in which they come. All of a stream's queries share one
// connection to one nameserver; when that cannot be opened, ends or falls
// silent before it answered, the unanswered queries move to the next.
//
// # Spoofing
//
// An answer over UDP counts only when it comes from the address asked, to the
// port that asked (the sockets are connected: the kernel checks both), with the
// id sent and the question asked. Ids are random. So are ports, chosen by the
// kernel per socket; a socket takes new queries for a tenth of a second and for
// 32 queries at most, whichever ends first. At a person's pace each query has
// its own port, as RFC 5452, section 9.2 wants; a busy guest pays for one
// socket in 32 queries, and a port found out by probing is useless by then.
//
// # Bounds
//
// Queries in flight, streams, messages and bytes in flight per stream,
// nameservers (8) and the size of resolv.conf (64 KiB) are bounded, and sockets
// by the queries in flight. One look at resolv.conf is under way at a time. Idle,
// the resolver holds no goroutine, no timer and no descriptor.
//
// What it does not do: cache, validate, follow search lists or any `options`
// line, speak to anybody but the nameservers listed.
package dns
