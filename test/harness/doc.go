// Package harness makes the network that the end-to-end tests and the
// benchmarks run in, and drives a helper binary inside it.
//
// # Theory of operation
//
// [Run] is called by a TestMain or a main function. It builds the helper and
// executes the calling program again in stages, told apart by an environment
// variable:
//
//	set-up    what the user started; as root it drops to an unprivileged uid
//	user      that uid; makes a user, a network and a mount namespace
//	runner    uid 1000 of those namespaces: the tests run here
//
// so that the same calls are made whether the tests are started by root or by
// a plain user, and nothing of the machine's own network is touched. The
// runner keeps the capabilities of its own namespaces on all its threads; what
// it starts has none, because the ambient set is cleared on the thread that
// forks. A helper started by it is therefore a plain user's process.
//
// The runner's network namespace is the host: a helper's sockets live in it.
// Behind it lie two more, so that a packet to the internet passes a router
// that decrements TTL and says what is unreachable:
//
//	guest --TAP-- helper in host --veth-- router --veth-- internet
//
// Sockets of every namespace are made by the runner itself: a thread joins the
// network namespace, makes the socket and is thrown away, and the socket keeps
// its namespace. The kernel lets the owner of a user namespace do this without
// joining it, so a [Guest] is only a process that holds namespaces open. Tests
// therefore hold ordinary net.Conn values whose errors are the kernel's.
//
// What it leaves: nothing. Every process started dies with the thread that
// started it, namespaces go with their last descriptor, [Env.Leaks] names what
// is left at the end.
//
// It asserts nothing and knows nothing of package testing: functions return
// errors, and what is right is the caller's to say.
package harness
