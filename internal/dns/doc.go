// Package dns is the resolver behind the plan's DNS address: it forwards the
// guest's queries to the host's nameservers and returns their answers.
//
// # Theory of operation
//
// The resolver is a forwarder, not a cache. A message passes through byte for
// byte: record types, EDNS, the case of names and the TC bit are between the
// guest and the nameserver. Only the 16-bit id of a query over UDP is replaced
// (see "Spoofing"), and restored in the answer. The resolver composes one
// message itself: SERVFAIL, when no nameserver answered. It never says NXDOMAIN.
//
// A query goes out by the transport by which it came. Everything is decided on
// the shard's thread, by the same code for both transports.
//
// With Config.Rewrite, nameservers are asked another query instead, and the guest's answer
// is made from theirs. Resolver.Ask is for the program's own questions.
//
// # Life of a query
//
//  1. Over UDP, Submit takes the datagram. Over TCP, Stream gives the data path
//     one end of a socket pair; a goroutine (stream.serve) reads messages with
//     the framing of RFC 1035, section 4.2.2 from the other end and posts each
//     to the shard.
//  2. Resolver.answerLocally gives Config.Local the chance to answer, before any
//     nameserver is asked. Otherwise Resolver.forward follows resolv.conf, and an
//     exchange begins.
//  3. exchange.start orders the nameservers: those in favour, then the demoted,
//     each in the order of resolv.conf. exchange.advance asks the next one.
//  4. Over UDP, sendUDP sends from a connected socket, and socket.Ready takes
//     the answer. Over TCP, sendTCP starts a goroutine that connects, writes the
//     query, reads one answer and posts it to the shard.
//  5. exchange.answered ends the exchange with the answer. SERVFAIL, NOTIMP or
//     REFUSED is kept instead and the next nameserver asked at once, as resolvers
//     on the host do; if none does better, the guest gets the first of these.
//  6. exchange.failed asks the next nameserver at once: after an ICMP port
//     unreachable, or when a connection could not be opened or ended early.
//  7. exchange.Run is the timer. After Config.Retry (0.8 s) of silence the next
//     nameserver is asked, and answers of the earlier ones still count. Over UDP
//     there is a second round, against packet loss, from other sockets: the host may
//     have lost the address that the first were bound to. Config.Timeout (4.5 s) ends
//     the exchange with SERVFAIL, shortly before the 5 s after which the stub
//     resolvers of C libraries ask again.
//  8. exchange.finish cancels what is still under way and replies. Over UDP the
//     reply goes straight to the guest. Over TCP a goroutine writes it to the
//     stream (stream.write), so answers leave in the order in which they come.
//
// A query over UDP wakes no goroutine, takes no lock and allocates nothing.
//
// Each query over TCP has a connection of its own. Nothing is lost when a
// nameserver closes an idle connection (RFC 7766, section 6.2.4), and one slow
// answer delays no other. It costs a round trip more than a shared connection for
// the second and later queries of a stream; most streams carry one query, whose
// answer over UDP was truncated.
//
// # Nameservers
//
// Nameservers come from resolv.conf(5), of either family whatever the family of
// the guest's query, scope ids kept, loopback addresses (127.0.0.53) used as they
// are. The first query of each turn of the shard checks with one statx(2) whether
// the file has changed, so a replaced file counts from the next query on. The call
// takes about a microsecond, and a network file system answers from its cache. Only a
// file that has changed is read, on the shard's thread, too. A missing file means
// SERVFAIL until it appears; a file without a nameserver means the local host, as
// resolv.conf(5) says.
//
// A nameserver that refused, or stayed silent without answering any other query
// meanwhile, is demoted and asked last. After Config.Demotion (10 s, doubling to
// 16 times that) one query is sent to it as a probe, in addition to the one to the
// nameserver in favour, so no client waits for the test. Any answer reinstates
// it. UDP and TCP are judged apart, because some nameservers speak only one of
// them.
//
// # Spoofing
//
// An answer over UDP counts only if it comes from the address asked, to the port
// that asked (the sockets are connected: the kernel checks both), with the id
// sent and the question asked. Ids are random. So are ports, chosen by the kernel
// for each socket; a socket takes new queries for a tenth of a second, and 32 at
// most. At a person's pace each query has its own port, as RFC 5452, section 9.2
// asks; a busy guest pays for one socket in 32 queries, and a port found by
// probing is useless by then.
//
// # Bounds
//
// Queries in flight, streams, nameservers (8) and the bytes read of resolv.conf
// (64 KiB) are bounded. So are the queries over TCP, for each stream and for all
// together; each holds one goroutine and connection for each nameserver asked, or
// one goroutine that writes the answer. UDP sockets are bounded by the queries in
// flight, two for each nameserver asked. An idle resolver holds no goroutine, timer or
// descriptor.
//
// The resolver does not cache, validate, follow search lists or `options` lines,
// or send to anything but the nameservers listed.
package dns
