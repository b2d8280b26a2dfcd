// Package subid finds the user and group ids that a user may have in user namespaces beside
// its own, and the programs that map them.
//
// # Theory of operation
//
// A plain user may map only its own ids into a user namespace. root grants others: in
// /etc/subuid and /etc/subgid (subuid(5)), from which newuidmap(1) and newgidmap(1), which
// are setuid or have capabilities, map them. Of reads the files, Lack says what is missing
// and how root mends it.
//
// # Invariants
//
// Nothing is changed and no program is started. newuidmap checks the ids again, so a wrong
// reading grants nothing.
//
// Timers: none. What it does not do: use other sources than the files (nsswitch's subid).
package subid
