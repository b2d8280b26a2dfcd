// Package netavark is the driver "epiphyte" for podman's networks, as a plugin of netavark:
// "podman network create -d epiphyte" makes a network of ours, and the containers on it are
// its members.
//
// # Theory of operation
//
// netavark executes the file in its plugin directory that has the driver's name, with a
// command as first argument and JSON on stdin, and expects JSON on stdout (netavark's plugin
// API, version 1.0.0):
//
//	info             says what we are
//	create           podman defines a network: we fill in its subnets
//	setup NETNS      a container starts, or is connected: it becomes a member
//	teardown NETNS   it stops, or is disconnected: it leaves
//
// Each is a process that ends when it has answered. It opens a container's TAP in its
// namespace and hands it to the network's process (package network), as a detached member,
// since no process of ours stays to hold it. The member has the container's id and name, and
// the addresses that podman's IPAM has chosen.
//
// An error is one JSON object on stdout, {"error": TEXT}, which podman prints. A setup
// that fails leaves nothing.
//
// # Rootless podman
//
// podman calls create in the host's network namespace, but setup and teardown in a
// namespace that all its rootless networks share, whose sockets are not the host's. A
// network's process cannot be started there. So a network that rootless podman has created
// stays while it has no members (netdef.Definition.Stay): create starts it, and after a
// reboot setup asks the user's service manager for the unit epiphyte-network@NAME. Without a
// manager, setup fails with the command that starts the network.
//
// # Ports
//
// Rootless podman runs its program rootlessport whenever a container has ports, whatever
// its networks are. A port of the host cannot be bound twice, so setup leaves them to it.
// It is a proxy that hides the client's address; where our program is installed under its
// name (make install-rootlessport), a member's network publishes its ports, and clients keep
// their addresses.
//
// Where podman runs as root, setup publishes them. podman then reserves the host's ports
// itself, unless containers.conf says enable_port_reservation = false ([engine]).
//
// A container's ports are published once, by the network of its first interface, and move to
// the next one when it leaves. An internal network publishes none.
//
// # Life of a network
//
// "podman network rm" does not call plugins. What create has made stays until
// "epiphyte network rm NAME", or until podman creates a network of the same name, which
// replaces the old one if that has no members. If a definition is removed while podman still
// knows the network, the next setup makes it again from podman's own.
//
// # Options
//
// Of podman network create: --subnet, --gateway (the subnet's first address and no other),
// --ip-range, --ipv6, --internal, --disable-dns, and of -o: mtu=BYTES, isolate=true (the
// members do not reach each other, as with "epiphyte network create --isolate"; networks
// are always apart), allow_host_loopback=true, policy=FILE (what each container may reach,
// unless the environment of its podman names another; see Join). Everything else is refused
// by name rather than ignored silently.
//
// # Invariants
//
// What podman sends and we do not know goes back unchanged. No command waits indefinitely,
// since the caller holds podman's lock.
//
// Timers: patience, for a command; managerPatience, for the user's service manager.
//
// What it does not do: it touches no interface (the caller's Join does), serves nothing,
// and knows of containers only what it is told.
package netavark
