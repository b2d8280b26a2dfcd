// Package api is how a running program is asked and told things: the control
// socket with slirp4netns's JSON, HTTP with JSON on a socket of its own, and
// the client of both.
//
// # Theory of operation
//
// A [Server] listens on one Unix stream socket and speaks one of the two
// protocols. It does no work itself: requests become calls of [Config]'s Ports,
// Flows and Stats, whose results become replies. Every connection has a
// goroutine; an idle server has one, waiting in accept, and no timer.
//
// The control socket's requests and replies are a contract: programs compare
// its texts. What we add to it (a cause in errors, IPv6, a range's last port, two
// requests of our own) are keys and values that slirp4netns would not send, never
// a change of those it does. The HTTP side is described in docs/openapi.yaml, which a test holds
// against the routes.
//
// HTTP/1.1 is read and written here, in some 200 lines: package net/http made
// the idle program 1.9 MB (a quarter) larger in memory and 4.3 MB on disk,
// asked for or not.
//
// # Who may ask
//
// Three checks, each enough by itself against most of those who may not: the
// socket file has mode 0600 from its first moment; the peer's effective user is
// ours or root; and the peer's socket was made in the network namespace that
// ours was made in. The last one keeps the guest out even where it shares the
// user and the file system with us, as a command of our own does. It is the
// kernel's word about the socket (SO_NETNS_COOKIE, Linux 5.14), not about a
// process that may have gone meanwhile; older kernels do without it.
//
// # Bounds
//
// At most maxConns connections; one more ends the one that has kept us waiting
// longest. A request is at most 4095 bytes on the control socket, 8 KiB of head
// and 64 KiB of body over HTTP, and has patience to arrive in; a reply has
// writeTimeout to be taken.
//
// # Life
//
// Listen makes the socket file, in place of one left behind by a predecessor;
// from then on clients can connect, and Serve answers them. Close, or the end of
// Serve's context, removes the file, if it is still ours, and ends every
// connection.
//
// What it does not do: authenticate beyond the above, encrypt, listen on TCP, or
// decide whether a rule makes sense: that is package portfwd.
package api
