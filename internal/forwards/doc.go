// Package forwards keeps the ports that pasta's options and pesto forward: it makes each
// change as a whole, and remembers pesto's.
//
// # Theory of operation
//
// A [Set] begins with the table of the command line, whose ports are served already. A change
// is made to the table first, by the rules of package pasta; then the changes of its
// effective ports are handed to the portfwd.Manager, which makes all of them or none; then
// the file is written. If one of these fails, all is as before.
//
// # The file
//
// Forwards beyond the command line's are in the file rules of a directory beside the control
// socket, one a line, as on the command line. The file is read when the program is started
// again with that socket. The command line takes precedence: a line that conflicts with it is
// left out, and so are lines that cannot be read or whose ports are not free, each with a
// warning. Deletions of the command line's ports are not remembered.
//
// The file is replaced by another, so that a reader gets the old rules or the new. It has a
// directory to itself, because the program is confined when it writes, and may make files
// nowhere else.
//
// Life: New; Restore, once the Manager serves and before the program is confined; changes;
// Close, which removes the directory if no rules are left.
//
// What it does not do: it opens no socket, and knows no protocol.
package forwards
