// Package logfile is a log in a file of bounded size.
//
// # Theory of operation
//
// A [File] is the writer of a slog handler. It begins with a line that says whose it is.
// When a line has no room, the older half of the lines after that first one is dropped:
// the newer ones are moved to their place and the file is shortened. So the file keeps its
// path and inode for programs that follow it, and needs no rights to directories: the program
// is confined when most lines are written. Since half of it is dropped at once, each line
// causes at most as many bytes to be moved as it has.
//
// Lines are written at once, on the caller's goroutine, into the page cache. Nothing is
// retried: a line that the disk has no room for is lost.
//
// Invariants: the file is never larger than its limit. Except while lines are being moved, it
// holds the first line and the newest others in order. Anything but a regular file (a
// terminal, a pipe) is written to without a limit.
//
// What it does not do: it keeps no older files, and shares its file with no other process.
package logfile
