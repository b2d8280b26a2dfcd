// Package netavark is the driver "epiphyte" of podman's networks, as a plugin of
// netavark: what "podman network create -d epiphyte" makes is a network of ours, and the
// containers on it are its members.
//
// # Theory of operation
//
// netavark executes a file in its plugin directory that has the driver's name, with a
// command as first argument, JSON on stdin and JSON wanted on stdout (netavark's plugin
// API, version 1.0.0):
//
//	info             says what we are
//	create           podman defines a network: we fill in its subnets
//	setup NETNS      a container starts, or is connected: it becomes a member
//	teardown NETNS   it stops, or is disconnected: it leaves
//
// Each is a process that ends when it has answered. A container's TAP is opened in its
// namespace and handed to the network's process (package network), as a detached member:
// nobody here stays to hold it. Its id is the container's, its name the container's name,
// its addresses are those that podman's IPAM has chosen.
//
// An error is one JSON object on stdout, {"error": TEXT}, which podman prints. A setup
// that fails leaves nothing.
//
// # Rootless podman
//
// podman calls create in the host's network namespace, but setup and teardown in a
// namespace that all its rootless networks share, where a socket is not a socket of the
// host's. A network's process cannot be started there. So a network that rootless podman
// has created stays while it has no member (netdef.Definition.Stay): create starts it,
// and after a reboot setup asks the user's service manager for the unit
// epiphyte-network@NAME. Without one, setup fails with the command that starts it.
//
// # Ports
//
// Rootless podman runs its program rootlessport whenever a container has ports, whatever
// its networks are. A port of the host cannot be bound twice, so setup leaves them to it.
// It is a proxy that hides who the client is; where our program is installed under its
// name (make install-rootlessport), the ports of our members are published by their
// network, and their clients keep their addresses.
//
// Where podman runs as root, setup publishes them. podman reserves the ports of the host
// itself then, unless containers.conf says enable_port_reservation = false ([engine]).
//
// They are published once for a container, by the network of its first interface, and
// move to the next one when it leaves. An internal network publishes none.
//
// # Life of a network
//
// "podman network rm" does not call plugins. What create has made stays until
// "epiphyte network rm NAME", or until podman creates a network of the same name: it takes
// the old one's place if that has no members. A definition that was removed while podman
// still knows the network is made again by the next setup, out of podman's own.
//
// # Options
//
// Of podman network create: --subnet, --gateway (the subnet's first address and no other),
// --ip-range, --ipv6, --internal, --disable-dns, and of -o: mtu=BYTES, isolate=true (the
// members do not reach each other, as with "epiphyte network create --isolate"; networks
// are always apart), allow_host_loopback=true, policy=FILE, what each container may reach
// unless the environment of its podman names another (Join). Everything else is refused by name, since
// a wish that is silently dropped is a promise broken.
//
// # Invariants
//
// What podman sends and we do not know goes back as it came. No command waits for ever,
// since whoever calls has podman's lock.
//
// Timers: patience, for a command; managerPatience, for the user's service manager.
//
// What it does not do: it touches no interface (the caller's Join does), serves nothing,
// and knows nothing of containers but what it is told.
package netavark
