// Package egress is the language in which a user says what a guest may reach, and the
// decision that follows from it.
//
// # Theory of operation
//
// A Policy is a text compiled once by Parse. It does not change: a new text makes a new
// Policy. Decide is a pure function of a Policy and a Flow; nothing here opens a socket,
// reads a clock or a file, or asks the host.
//
// # The language
//
// One statement a line; what follows a '#' at the start of a word is a comment.
//
//	allow|deny [tcp|udp|icmp] TARGET[:PORT[-END],...] [via PROXY]
//	allow|deny in [tcp|udp] from SOURCE [to PORT[-END],...]
//	default allow|deny
//	default in allow|deny
//	names synthetic|pin
//	sni if-present|require
//	flows keep|kill
//	dns addresses|any
//	learn
//
// TARGET is a name, *.name, an address, a prefix or a group; an IPv6 address or prefix
// before a port stands in brackets. SOURCE is an address, a prefix or a group. Without a
// protocol a rule is for all three, and with ports for TCP and UDP.
//
// PROXY is socks5://HOST:PORT, http-connect://HOST:PORT, or unix:PATH, a SOCKS5 proxy's
// socket. The rule is for TCP then. Where several rules allow a flow it goes by one with a
// proxy.
//
// The order of lines does not matter. Deny beats allow beats default. Unless it is set, the
// default of a direction is deny once a rule allows anything there: a list of what is allowed
// means nothing else is.
//
// Names are compared as A-labels in lower case without a dot at the end (RFC 5891). *.x
// is every name below x, at any depth, and not x. A star below which anybody may register a
// name is refused in an allow rule (suffix.go).
//
// Each statement that cannot be read is an Error with its line and column, and then there is
// no Policy: nothing is guessed, skipped or half applied.
//
// # Names and addresses
//
// A Flow to a name is decided by rules for names, and then, once the address is known,
// by those for addresses: a denied address is denied under any name, and one that is not
// on the Internet needs a rule of its own, so that the nameserver of an allowed name cannot
// point it at the metadata service or the local network. A Flow to an address that came from
// no name is decided by rules for addresses alone.
//
// Other resolvers are refused whatever rules say: we would not know the names looked up
// there.
//
// # Cost
//
// Rules for names are found by one map lookup for each label of a name, those for prefixes by
// one for each prefix length that occurs. Among many rules for one target, a binary search
// finds the one for a port (ports.go). So a decision hardly depends on the number of rules,
// and it does not allocate.
package egress
