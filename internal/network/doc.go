// Package network serves networks of several members: neighbours that talk, find each
// other by name, and share one way out.
//
// # Theory of operation
//
// A network is two processes of one user, in the host's namespaces:
//
//	keeper                           worker, confined
//	holds the lock, the socket and   bridge, stack, names, published ports
//	a copy of every descriptor       and the socket's clients
//	     │  members, at start              ▲  requests, TAPs (SCM_RIGHTS)
//	     └──────────► control ◄────────────┤
//	                                 clients: run, attach, podman's plugin
//
// A member's client opens a TAP inside the member's namespaces and hands its descriptor
// to the worker, which puts it on the bridge and answers with addresses. The connection
// is the membership: when it ends, for whatever reason, the member leaves. Members without a
// client of their own (podman's) are detached: they stay until Leave, or until their process
// or the path of their namespace is gone.
//
// # Survival
//
// The keeper reads nothing that guests send and only holds descriptors, so it has no reason
// to die. When the worker dies, the keeper starts another one and hands it the members with
// their TAPs, agents and connections. They keep their addresses, names and ports; between
// members only frames are lost, since their kernels hold the connections. Connections to the
// outside are reset. Upgrade does the same with a newer program, and goes back to the old one
// if the new one does not serve. When the keeper dies, the kernel ends the worker; the
// members' clients, which keep their TAPs as well (Holder), start the network anew and join
// with the addresses they had. Only detached members are lost then.
//
// # Life of a network
//
// Start runs "network serve NAME", which takes the lock (one keeper per name), chooses
// subnets that neither the host's routes nor other networks cover, listens, and starts
// the worker. A worker that has had neither members nor clients for linger ends, and the
// keeper with it, unless the network is to stay.
//
// # Life of a member
//
//  1. Worker.serve receives the request with the TAP; join reserves name and addresses;
//  2. join adopts the TAP and the agent, binds the ports, and connects: bridge, names, lease;
//  3. keep hands copies of the descriptors to the keeper. The reply carries addresses.
//  4. The client configures the interface, and holds (Hold) or closes its connection.
//  5. leave undoes it all and ends the member's flows, so that its address is free.
//
// # Published ports
//
// A member's client that publishes TCP ports starts an agent in the member's namespaces
// (package tap) and hands its socket over with the TAP, for the direct path (package
// portfwd). The keeper holds a copy of that, too; the next worker discards sockets that the
// agent has made for a dead one. Members without an agent, and those whose agent has ended,
// are reached by the bridge, as are those whose agent was started for other reasons, when their
// ports are published later.
//
// # Connections that leave the bridge
//
// The members' kernels carry TCP connections that move much, by sockets that the members' agents
// make: those to outside as package relay describes, where the worker splices, and those to
// neighbours as package bypass describes. The ends of the latter are handed to the client
// of the member that has asked for the connection (reply.Take), or for a detached member to the
// keeper (opTake), which splices them (splicer), tells of their end (opEnded), and tells a new
// worker which there are (opCarried). So they survive the worker.
//
// A client starts its member's agent before it joins. A detached member has no process to be the
// agent's parent; the keeper starts one (opAgent) when the first connection is found busy.
//
// # Policies
//
// A member's policy (package egress) comes as a sealed file in memory, and the file for its
// record as a descriptor. The policy is in force before the member's ports are bound and its
// frames are read, and the keeper has a copy of the descriptors, so no worker ever serves the
// member without it. Package guest applies it. A replacement goes to the member's own process
// and to the keeper before it is in force, so that either has the member join again with it.
//
// # Invariants
//
// An address stays reserved for a name while the worker lives and addresses suffice. A failed
// join frees what it has reserved. Membership is guarded by a mutex; bridge, names, agents
// and flows belong to the shard's thread. Messages say what each of their descriptors is.
// Members, connections and messages are bounded.
//
// Timers: linger, while nobody is there; the pause before replacing a worker that keeps
// dying; windUpFor, for what a member that leaves has ended and its neighbour has not read.
//
// What it does not do: it opens no TAP and configures none; it knows neither podman nor
// the command line.
package network
