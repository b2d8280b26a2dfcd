// Package pasta reads the command lines of pasta(1) and pesto(1): the grammar of their
// options, and what repeated ones mean together.
//
// # Theory of operation
//
// Everything here is a pure function of its arguments. [Option.Parse] reads the argument
// of -t, -u, -T or -U and returns a [Forward] for each range of ports; a [Table] combines
// several of them, and says which ports each of them gets in the end. A Forward's String is
// what Parse reads, with the option: a file of such lines, a request that changes a table and
// a command line share one language.
//
// Bad input is an error of one line that quotes it, says what is wrong and shows a right
// form.
//
// # Precedence
//
// Three kinds of Forward may want the same port: one that names it, then all ports that
// can be bound (BestEffort), then all ports that a server listens on (Auto). The first of
// these kinds gets it, and the others leave it out. Two of the same kind may want it if it
// leads to the same place; else the second is a [ConflictError].
//
// What it does not do: it binds nothing, and does not know which addresses and
// interfaces exist.
package pasta
