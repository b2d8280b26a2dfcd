// Soak keeps a helper under mixed load for minutes and watches what it holds: a byte
// that is wrong, or memory, descriptors or threads that do not stay level, end it with
// an error.
//
//	make soak                             # ten minutes
//	make soak SOAK=60s SEED=7 WRITE=docs/soak.svg
//
// # Theory of operation
//
// There are two sites, each a guest and a helper as a plain user's process: one with
// published ports by the direct path, one with two queues and published ports by the
// stack path. They share the small internet of test/harness, and servers on it, on
// the host's loopback and in the guests.
//
// A job does one thing again and again while the load lasts: a stream by some route,
// datagrams, a name, a ping, a change of the network around the helper. Each has a
// generator of random numbers of its own, seeded by the run's seed and the job's name,
// so a seed repeats what is done, though not the moments at which it is.
//
// A stream begins with an order, which says what both ends have to do: so many bytes
// each way, whose end of stream comes first, who resets, how long readers stop. Both
// know every byte, since the content follows from the order's number. The server's
// verdict goes to the client by a ledger, as both live in this process: an exchange has
// succeeded when both ends say so. A datagram or a DNS answer is right to the byte, or
// an error; one that does not come may be asked for again, as every client of UDP does,
// and is counted.
//
// Usage is read once a second from /proc. The first quarter of the load is warm-up. The
// medians of the second quarter and of the last are then compared, and once the load
// has ended everything must come back to what an idle helper holds, apart from
// mappings, which are listed and may be idle for minutes (docs/manual.md, limits).
//
// What it does not do: it measures no speed, loses no packets on purpose, and nothing
// leaves the machine or touches its own interfaces.
package main
