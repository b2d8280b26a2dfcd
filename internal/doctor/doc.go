// Package doctor checks for what a plain user's guests need from the host, and says who can
// mend each lack, and by which command.
//
// # Theory of operation
//
// Examine first makes a guest: namespaces with a TAP in them, as run makes them, which end
// again at once. Report.OK says whether that worked. The rest are reasons and remedies: each
// check reads one setting, limit or file of the host, or tries the one system call that it is
// about, and gives a Finding. A check never fails: a setting that cannot be read is one that
// the kernel does not have, and no lack.
//
// # Invariants
//
// Nothing is changed, no program is started but this one, and nothing is sent. A remedy is
// one line for a shell, to be run as it is.
//
// Timers: none. What it does not do: look at a running program (its API does), or at the
// internet.
package doctor
