// Package netdef keeps the definitions of networks of several members: a network's name, its
// subnets and what its members may reach.
//
// # Theory of operation
//
// A Definition is a value. Whether it is valid (Validate) does not depend on the host. Each
// is one JSON file that people may edit: an unknown field is an error, since a mistyped
// "internal" would open a network. Files are written beside their place and renamed into it,
// so a reader sees the old one or the new one.
//
// A definition need not name its subnets. Choose fills them in when the network
// starts, with the lowest pool that nothing else covers: no route or address of the
// host (HostRoutes) and no other network, whether running or only defined (Paths.Subnets).
// The choice is not written back unless the caller saves it. Two networks that choose at the
// same time may choose the same, so the caller must lock.
//
// Paths are where things are. A process that can write below Paths.Runtime is handed the
// devices of members, so that directory is ours alone: DefaultPaths makes it, and
// refuses one that belongs to somebody else or that others may enter. Names of networks
// become names of files and suffixes of domain names; the methods that take a name and
// return a path expect a valid one (ValidName).
//
// What it does not do: it starts nothing, listens nowhere, locks nothing and keeps
// nothing in memory. Only a running network knows its members.
package netdef
