// Package forwards keeps the ports that pasta's options and pesto forward: it changes them
// as one, and remembers what pesto has changed.
//
// # Theory of operation
//
// A [Set] begins with the table of the command line, whose ports are served already. A
// change is made to the table first, by the rules of package pasta; then what has changed
// of its effective ports is handed to the portfwd.Manager, which carries out all of it or
// nothing; then the file is written. If one of them fails, all is as before.
//
// # The file
//
// What is forwarded besides the command line's is in the file rules of a directory beside
// the control socket, a line for each, as on the command line. It is read when the program
// is started again with that socket, after the command line, which comes first: a line that
// conflicts with it is left out, and so are lines that cannot be read or whose ports are
// not free. Each is a warning. Deletions of the command line's ports are not remembered.
//
// The file is replaced by another, so that whoever reads has the old rules or the new.
// It has a directory to itself, because the program is confined when it writes: it may make
// files there and nowhere else.
//
// Life: New; Restore, once the Manager serves and before the program is confined; changes;
// Close, which removes the directory if no rules are left.
//
// What it does not do: it opens no socket, and knows no protocol.
package forwards
