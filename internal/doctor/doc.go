// Package doctor looks for what a plain user's guests need of the host, and says of each
// lack who can mend it by which command.
//
// # Theory of operation
//
// Examine first makes what is asked about: namespaces with a TAP in them, as run makes
// them, which end again at once. Whether that worked is what Report.OK says. The rest are
// reasons and remedies: each check reads one setting, limit or file of the host, or tries
// the one system call that it decides, and gives a Finding. A check never fails: what
// cannot be read is what the kernel does not have, and is no lack.
//
// # Invariants
//
// Nothing is changed, no program is started but this one, and nothing is sent. A remedy is
// one line for a shell, to be run as it is.
//
// Timers: none. What it does not do: look at a running program (its API tells), or at the
// internet.
package doctor
