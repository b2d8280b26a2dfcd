// Package completion writes what bash, zsh and fish need to complete the program's command
// lines.
//
// # Theory of operation
//
// Read asks the built program itself: its help texts name every command and option, so what
// is completed is what the program has, and there is no second list to forget. The three
// shells get the same: commands where one may stand, the options of the command that was
// named, files behind an option that takes one, and behind run the shell's own commands.
//
// The package is for the building of packages; nothing of it is in the program.
package completion
