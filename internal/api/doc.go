// Package api lets users and programs control a running program: by a control socket with
// slirp4netns's JSON, and by a socket with HTTP and JSON. It has a client of both.
//
// # Theory of operation
//
// A [Server] listens on one Unix stream socket and speaks one of the two
// protocols: a connection carries one request and its reply, and is closed. The
// server does no work itself. Requests become calls of [Config]'s Ports, Flows and
// Stats, whose results become replies. Only the reply to a capture has no end of its own: it
// ends when the client closes its direction of the connection, or the server is closed. Each
// connection has a goroutine; an idle server has one, waiting in accept, and no timer.
//
// [Port] and [Flow] are the only JSON forms of a published port and a flow: in requests, in
// replies and in the [Client]. The ports of pasta's options are also shown and changed as a
// whole ([ForwardsChange]), in the syntax of the options.
//
// The control socket's requests and replies are a contract, because programs
// compare the texts. We add keys, values and two requests that slirp4netns does
// not have, and never change its own.
//
// docs/openapi.yaml describes the HTTP side; a test compares it with the routes.
// The server accepts HTTP/1.1 (and 1.0) requests whose body, if any, has a
// Content-Length, and nothing else. It does not use package net/http, which would
// make the program slower to start and larger, whether HTTP is used or not;
// docs/design.md has the figures.
//
// # Who is permitted
//
// Three checks: the socket file has mode 0600 from the beginning; the client's
// effective user is ours or root; and the client's socket was made in the network
// namespace that ours was made in. The last one keeps the guest out even if it
// shares the user and the file system with us, as a command of `run` does. It is about
// the socket (SO_NETNS_COOKIE, Linux 5.14), not about a process, which may have ended; on
// older kernels it is skipped.
//
// # Bounds
//
// At most maxConns connections; one more closes the oldest that has not sent its
// request. A request has at most 4095 bytes on the control socket, and 8 KiB of
// head and 1 MiB of body over HTTP. It must arrive within patience, and the client
// must read the reply within writeTimeout.
//
// # Life
//
// Listen makes the socket file, replacing one left behind by a predecessor. From then on
// clients can connect, and the Serve of a [Server] answers them. Close, or
// the end of Serve's context, removes the file, if it is still ours, and closes
// every connection.
//
// This package does not authenticate beyond the above, encrypt, listen on TCP, or
// decide whether a rule makes sense, which is up to package portfwd.
package api
