// Bench measures a helper beside its peers and beside what the kernel does
// without any helper, and prints a table of medians and ratios.
//
//	go run ./test/bench                       # everything, a few minutes
//	go run ./test/bench -quick                # a few rows: is a ratio below its floor?
//	make bench ROWS='rtt-*' PEERS='epiphyte,pasta=/opt/passt/pasta' ROUNDS=5
//
// # Theory of operation
//
// A sample is one row (a workload) with one peer. For each sample all is made
// anew: a network namespace that stands for the host, a guest's namespaces, a
// helper between them, and two traffic generators. So no sample inherits the
// memory, the congestion metrics or the TIME_WAIT sockets of another. Within a
// round a row is measured with all peers, one straight after the other, in an
// order that rotates from round to round; ratios are taken within a round and
// their median is reported. A machine whose speed drifts then disturbs both
// sides of a ratio alike.
//
//	client in guest --TAP-- helper in host --lo-- server in host
//
// Two peers are no helpers but ceilings: "veth" joins guest and host by the
// kernel alone, "loopback" runs the client in the host's namespace.
//
// Generators (gen_*.go) are this program again, in a role told by an
// environment variable: threads that own a processor of the Go scheduler for
// life and make raw, blocking system calls, with no collector and no poller in
// the way. They say nothing while they run; they count in a page of shared
// memory. The runner reads counters, clock and the helper's CPU clock together
// at both ends of a window, so rates and costs are of the same moment and
// neither start nor end of a transfer is in them.
//
// Rows of real programs (programs.go, row_program.go) start a server and then clients, and
// read what these say of themselves. Each program is the first process of a PID namespace,
// so nothing of it outlives its sample. What the servers serve is made once a run
// (programs_data.go). Rows called ...-go have generators written as most programs in Go
// are (gen_go.go).
//
// CPU time is that of the helper's whole process from its CPU clock
// (clock_getcpuclockid(3), nanoseconds, ended threads included) plus its living
// descendants. The kernel charges it with the work it does on the helper's
// behalf, as delivery over loopback, which is done by the sender.
//
// Both sides run reno: a namespace inherits the machine's congestion control,
// and a peer that cannot stand another one would be measured for that.
//
// Rows called pasta-... (face.go) have our program in the place of pasta.
//
// Members of a network (neighbour.go) are two guests, client and server; "bridge" is
// their ceiling, the kernel's.
//
// RootlessKit makes its guest itself, so a scene with it (kit.go) has another one.
//
// What a run is held against is data: goals.go, and floors.go for the quick form;
// verdict.go compares, growth.go shows what rises with the size of a workload,
// plots.go and svg.go draw.
//
// What it does not do: nothing leaves the machine, no packet is lost or delayed
// on purpose, and the one resolver is ours.
package main
