// Package sniff reads which server traffic is for, from its first bytes as a client
// sends them: the server name of TLS (RFC 6066) and QUIC (RFC 9001), and the Host of
// HTTP/1 (RFC 9112).
//
// # Theory of operation
//
// A reader is fed what comes, in pieces of any size, until its Result is not More. It
// keeps a copy of what it has not understood yet, MaxHello at most, and nothing else. It
// decides nothing: whoever asks holds the traffic meanwhile, and knows which names may be.
//
// Reading is strict where servers differ. What one server takes for one name and another
// for a second (two names, two Host lines, contradictory copies of the same bytes,
// something after the end) is Malformed: nobody sends it by accident, and no guess could
// be right for both.
//
// # TLS
//
// Records are joined, so a ClientHello may be split in any way. Encrypted Client Hello
// (RFC 9849) shows the name of the front, and is noted. Clients send the extension as a
// dummy as well, so its presence says little.
//
// # QUIC
//
// The first packets are encrypted with keys that follow from the packet itself (RFC 9001
// section 5.2), for versions 1 and 2 (RFC 9369). A QUIC is the reader of what one client
// sends to one server; each of its datagrams may begin another connection, so all long
// headers are looked at, as long as the flow lives. CRYPTO frames come in any order.
// Since servers tell connections apart by their identifiers alone, a part of a hello
// sent from elsewhere counts there as well: no part may be let through before the whole
// is known.
//
// # What it does not see
//
// Names inside of TLS, further requests of one HTTP connection, HTTP/2 without TLS, and
// TLS that begins in the midst of a connection (STARTTLS).
package sniff

// MaxHello is how long a hello, or the head of a request, may be, in bytes. Clients send
// less than 2 kB, with post-quantum keys.
const MaxHello = 16 << 10

// State is how far reading has come.
type State uint8

// The states.
const (
	More      State = iota // feed what comes next
	Named                  // Result.Name is what it is for
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
	// ECH says that the hello may carry another, encrypted; Name is of the outer.
	ECH bool
}
