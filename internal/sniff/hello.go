package sniff

import "encoding/binary"

// Types of RFC 8446 section 4 and of the registry of TLS extensions.
const (
	handshakeClientHello = 1

	extensionServerName = 0
	extensionECH        = 0xfe0d // RFC 9849
	extensionESNI       = 0xffce // its predecessor, a draft

	nameTypeHost = 0
)

// handshakeHeader is type and length, RFC 8446 section 4.
const handshakeHeader = 4

// helloSize is the length of a handshake message with its header, if state is Named. It is
// More if m is too short to tell, and Malformed if m is no ClientHello or too long.
func helloSize(m []byte) (size int, state State) {
	if len(m) > 0 && m[0] != handshakeClientHello {
		return 0, Malformed
	}
	if len(m) < handshakeHeader {
		return 0, More
	}
	size = handshakeHeader + int(m[1])<<16 + int(m[2])<<8 + int(m[3])
	if size > MaxHello {
		return 0, Malformed
	}
	return size, Named
}

// parseHello reads a whole ClientHello with its header, RFC 8446 section 4.1.2.
func parseHello(m []byte) Result {
	b := cursor{rest: m[handshakeHeader:]}
	b.take(2 + 32) // version and random
	b.vector(1)    // session
	b.vector(2)    // cipher suites
	compression := b.vector(1)
	if b.bad || len(compression) == 0 {
		return Result{State: Malformed}
	}
	if len(b.rest) == 0 {
		return Result{State: Nameless} // without extensions, as before TLS 1.2
	}
	extensions := cursor{rest: b.vector(2)}
	if b.bad || len(b.rest) > 0 {
		return Result{State: Malformed}
	}
	r := Result{State: Nameless}
	for len(extensions.rest) > 0 {
		kind := extensions.number(2)
		body := extensions.vector(2)
		switch {
		case extensions.bad:
			return Result{State: Malformed}
		case kind == extensionECH || kind == extensionESNI:
			r.ECH = true
		case kind == extensionServerName && r.State == Named:
			return Result{State: Malformed}
		case kind == extensionServerName:
			name, ok := serverName(body)
			if !ok {
				return Result{State: Malformed}
			}
			r.State, r.Name = Named, name
		}
	}
	return r
}

// serverName reads the one name of the extension, RFC 6066 section 3.
func serverName(body []byte) (name string, ok bool) {
	b := cursor{rest: body}
	list := cursor{rest: b.vector(2)}
	kind := list.number(1)
	host := list.vector(2)
	ok = !b.bad && !list.bad && len(b.rest) == 0 && len(list.rest) == 0 && kind == nameTypeHost && len(host) > 0
	return string(host), ok
}

// cursor reads from the front; bad is set when bytes are missing.
type cursor struct {
	rest []byte
	bad  bool
}

func (c *cursor) take(n int) []byte {
	if c.bad || n > len(c.rest) {
		c.bad, c.rest = true, nil
		return nil
	}
	taken := c.rest[:n]
	c.rest = c.rest[n:]
	return taken
}

// number reads a big-endian number of one to four bytes.
func (c *cursor) number(bytes int) int {
	n := 0
	for _, b := range c.take(bytes) {
		n = n<<8 | int(b)
	}
	return n
}

// vector reads what follows its length.
func (c *cursor) vector(lengthBytes int) []byte { return c.take(c.number(lengthBytes)) }

// varint reads a number of RFC 9000 section 16.
func (c *cursor) varint() uint64 {
	first := c.take(1)
	if c.bad {
		return 0
	}
	var b [8]byte
	n := 1 << (first[0] >> 6)
	b[8-n] = first[0] & 0x3f
	copy(b[8-n+1:], c.take(n-1))
	return binary.BigEndian.Uint64(b[:])
}
