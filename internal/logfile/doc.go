// Package logfile is a log in a file of bounded size.
//
// # Theory of operation
//
// A [File] is the writer of a slog handler. It begins with a line that says whose it is.
// When a line has no room, the older half of the lines behind that first one is dropped:
// the newer ones are moved to their place and the file is shortened. So it is one file, at
// one path and with one inode, whoever follows it, and it needs no rights to directories:
// the program is confined when most lines are written. Dropping half of it makes the
// bytes moved for each line at most as many as the line has.
//
// Lines are written at once, on the caller's goroutine; a file's pages are memory. Nothing
// is retried: a line that the disk has no room for is lost.
//
// Invariants: the file is never larger than its limit, and but for its first line, and
// while lines are being moved, holds the newest lines in their order. What is no regular
// file (a terminal, a pipe) is written to as it is.
//
// What it does not do: it keeps no older files, and shares its file with no other process.
package logfile
