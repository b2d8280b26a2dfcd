// Package netdef keeps the definitions of networks of several members: what a network
// is called, which subnets it has and what its members may reach.
//
// # Theory of operation
//
// A Definition is a value. It is valid by itself (Validate), whatever the host looks
// like, and each is one JSON file that people may edit: a field that does not exist is
// an error, since a mistyped "internal" would open a network. Files are written beside
// their place and renamed into it, so a reader sees the old one or the new one.
//
// A definition need not name its subnets. Choose fills them in when the network
// starts, with the lowest pool that nothing else covers: no route or address of the
// host (HostRoutes) and no other network, whether it runs, which its process knows, or
// is defined (Paths.Subnets). The choice is not written back unless the caller saves
// it. Two networks that choose at the same time may choose the same: that is for the
// caller to lock.
//
// Paths are where things are. Whoever can write below Paths.Runtime is handed the
// devices of members, so that directory is ours alone: DefaultPaths makes it, and
// refuses one that belongs to somebody else or that others may enter. Names of networks
// become names of files and suffixes of domain names; the methods that take a name and
// return a path expect a valid one (ValidName).
//
// What it does not do: it starts nothing, listens nowhere, locks nothing and keeps
// nothing in memory. Who is a member is the running network's to know.
package netdef
