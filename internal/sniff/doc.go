// Package sniff reads which server traffic is for from the first bytes that a client sends:
// the server name of TLS (RFC 6066) and QUIC (RFC 9001), and the Host of HTTP/1 (RFC 9112).
//
// # Theory of operation
//
// A reader is fed traffic in pieces of any size until its Result is not More. It keeps a copy
// of what it has not understood yet, MaxHello at most, and nothing else. It decides nothing:
// its caller holds the traffic meanwhile, and knows which names are allowed.
//
// Reading is strict where servers differ. What servers could read as different names (two
// names, two Host lines, contradictory copies of the same bytes, something after the end) is
// Malformed: no client sends it by accident, and no guess could be right for all servers.
//
// # TLS
//
// Records are joined, so a ClientHello may be split in any way. Encrypted Client Hello
// (RFC 9849) shows only the front's name; its presence is noted, but says little, since
// clients also send the extension as a dummy.
//
// # QUIC
//
// The first packets are encrypted with keys that follow from the packet itself (RFC 9001
// section 5.2), for versions 1 and 2 (RFC 9369). A QUIC reads what one client sends to one
// server; each datagram may begin another connection, so all long headers are read, as long
// as the flow lives. CRYPTO frames come in any order. Since servers tell connections apart by
// their identifiers alone, they also accept part of a hello from another address: no part may
// pass before the whole is known.
//
// # What it does not see
//
// Names inside TLS, further requests on an HTTP connection, HTTP/2 without TLS, and TLS that
// begins in the middle of a connection (STARTTLS).
package sniff

// MaxHello bounds a hello, or the head of a request, in bytes. Clients send less than 2 kB
// with post-quantum keys.
const MaxHello = 16 << 10

// State is how far reading has come.
type State uint8

// The states.
const (
	More      State = iota // feed what comes next
	Named                  // it is for the server Result.Name
	Nameless               // it is this protocol, and names no server
	Other                  // it is something else
	Malformed              // it is this protocol, and cannot be read or is too long
)

// String is for people.
func (s State) String() string {
	return [...]string{"more", "named", "nameless", "other", "malformed"}[s]
}

// Result is what was read.
type Result struct {
	State State
	// Name as it was sent: letters of either case, perhaps a dot at the end,
	// perhaps no valid name at all.
	Name string
	// ECH says that the hello may carry another one, encrypted; Name is the outer one's.
	ECH bool
}
