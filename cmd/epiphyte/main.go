// Command epiphyte gives an unprivileged network namespace TCP, UDP, ping and
// DNS: a TAP in the namespace, a userspace network stack behind it, and ordinary
// sockets of the host beyond that.
//
//	epiphyte [OPTION]... PID|PATH|FD [TAPNAME]
//	epiphyte run [OPTION]... [--] [COMMAND [ARG]...]
//
// The first form is the command line of slirp4netns(1), and is used under that
// name as well. The second makes the namespaces, too, and runs a command in them.
//
// # Theory of operation
//
// run starts the program again for a role inside the guest's namespaces, and a network does
// for its worker; a process decides which role it has before anything else. All logic is in
// the packages: this one maps a role to its main function, and only it ends the process.
package main

import (
	"context"
	"os"

	"epiphyte/internal/cli"
	"epiphyte/internal/namespace"
	"epiphyte/internal/network"
)

func main() {
	if namespace.IsChild() {
		os.Exit(namespace.ChildMain())
	}
	if network.IsWorker() {
		os.Exit(cli.NetworkMain(context.Background(), os.Stderr))
	}
	os.Exit(cli.Main(context.Background(), os.Args, os.Stdout, os.Stderr))
}
