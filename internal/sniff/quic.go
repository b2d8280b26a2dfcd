package sniff

import "bytes"

// Versions that are read: RFC 9000 and RFC 9369.
const (
	version1 = 0x00000001
	version2 = 0x6b3343cf
)

// maxConnections bounds the connections of one client to one server that are remembered.
// Beyond it, the oldest is forgotten, and counts as new if it sends another Initial.
const maxConnections = 8

// QUIC reads the datagrams that one client sends to one server. Its zero value is ready to
// use. A datagram with the state More must not pass before one of the same Connection has the
// state Named or Nameless.
type QUIC struct {
	// Strict says that the traffic must be QUIC: an unknown version is Malformed, not Other.
	Strict bool

	connections []*connection // the oldest first
	serial      int
}

// Datagram is what was read from a datagram.
type Datagram struct {
	Result
	// Connection numbers the connections of a QUIC from 1 on; 0: the datagram begins
	// none.
	Connection int
}

// connection is one that the client has begun.
type connection struct {
	serial  int
	keys    [2]*keys // of versions 1 and 2, from the first destination id; nil: not needed yet
	id      []byte   // the first destination id
	largest int64    // packet number; -1: none yet
	hello   []byte
	have    []byte // for each byte of hello: 1 if it has come
	result  Result
}

// Feed reads one datagram. Result is that of its connection, also for further Initials of a
// known one. Packets with a short header, and others that begin no connection, are Other.
func (q *QUIC) Feed(datagram []byte) Datagram {
	d := Datagram{Result: Result{State: Other}}
	for rest := datagram; len(rest) > 0 && rest[0]&0x80 != 0; {
		p, next, ok := parseLong(rest)
		switch {
		case !ok && !q.Strict && d.Connection == 0:
			return d // something else that looked like QUIC
		case !ok:
			return Datagram{Result: Result{State: Malformed}}
		case p.initial:
			c := q.read(&p)
			if c == nil {
				return Datagram{Result: Result{State: Malformed}}
			}
			if d.Connection != 0 && d.Connection != c.serial {
				// RFC 9000 section 12.2: packets of one datagram are of one connection.
				return Datagram{Result: Result{State: Malformed}}
			}
			d = Datagram{c.result, c.serial}
		}
		rest = next
	}
	return d
}

// read adds an Initial's frames to its connection, and returns that; nil if the packet cannot
// be read.
func (q *QUIC) read(p *long) *connection {
	for _, c := range q.connections {
		// The server's answer changes the destination id, but not the keys.
		if payload, ok := c.open(p); ok {
			c.take(payload)
			return c
		}
	}
	c := &connection{id: bytes.Clone(p.destination), largest: -1}
	payload, ok := c.open(p)
	if !ok {
		return nil
	}
	q.serial++
	c.serial = q.serial
	if len(q.connections) == maxConnections {
		q.connections = append(q.connections[:0], q.connections[1:]...)
	}
	q.connections = append(q.connections, c)
	c.take(payload)
	return c
}

// open decrypts a packet with the keys of the connection.
func (c *connection) open(p *long) (payload []byte, ok bool) {
	i := 0
	if p.version == version2 {
		i = 1
	}
	if c.keys[i] == nil {
		c.keys[i] = initialKeys(p.version, c.id)
	}
	payload, number, ok := c.keys[i].open(p, c.largest)
	if ok {
		c.largest = max(c.largest, number)
	}
	return payload, ok
}

// Frames that an Initial may hold, RFC 9000 sections 17.2.2 and 19.
const (
	framePadding = 0
	framePing    = 1
	frameACK     = 2
	frameACKECN  = 3
	frameCRYPTO  = 6
	frameClose   = 0x1c
)

// take reads frames.
func (c *connection) take(payload []byte) {
	b := cursor{rest: payload}
	for len(b.rest) > 0 && !b.bad {
		switch b.varint() {
		case framePadding, framePing:
		case frameACK:
			skipACK(&b, 0)
		case frameACKECN:
			skipACK(&b, 3)
		case frameCRYPTO:
			offset, length := b.varint(), b.varint()
			if length > uint64(len(b.rest)) {
				b.bad = true
				break
			}
			c.crypto(offset, b.take(int(length)))
		case frameClose:
			b.varint()
			b.varint()
			if length := b.varint(); length > uint64(len(b.rest)) {
				b.bad = true
			} else {
				b.take(int(length))
			}
		default:
			b.bad = true
		}
	}
	if b.bad {
		c.end(Result{State: Malformed})
	}
}

// skipACK skips the fields of RFC 9000 section 19.3, and as many ECN counts as counts says.
func skipACK(b *cursor, counts int) {
	b.varint() // largest
	b.varint() // delay
	ranges := b.varint()
	b.varint() // first range
	for range min(ranges, uint64(len(b.rest))) {
		b.varint()
		b.varint()
	}
	for range counts {
		b.varint()
	}
}

// crypto takes a piece of the handshake.
func (c *connection) crypto(offset uint64, data []byte) {
	switch c.result.State {
	case Malformed:
		return
	case Named, Nameless:
		// The server may not have got the first hello, so a different one in its place
		// must not pass. Data after it answers a HelloRetryRequest.
		if n := uint64(len(c.hello)); offset < n && !bytes.HasPrefix(c.hello[offset:], data[:min(uint64(len(data)), n-offset)]) {
			c.end(Result{State: Malformed})
		}
		return
	}
	end := offset + uint64(len(data))
	if end > MaxHello {
		c.end(Result{State: Malformed})
		return
	}
	if grow := int(end) - len(c.hello); grow > 0 {
		c.hello = append(c.hello, make([]byte, grow)...)
		c.have = append(c.have, make([]byte, grow)...)
	}
	for i, b := range data {
		at := int(offset) + i
		if c.have[at] == 1 && c.hello[at] != b {
			c.end(Result{State: Malformed}) // the server may take either
			return
		}
		c.hello[at], c.have[at] = b, 1
	}
	whole := len(c.have)
	if i := bytes.IndexByte(c.have, 0); i >= 0 {
		whole = i
	}
	size, state := helloSize(c.hello[:whole])
	switch {
	case state == Malformed, state == Named && len(c.hello) > size:
		c.end(Result{State: Malformed})
	case state == Named && whole == size:
		c.end(parseHello(c.hello))
	}
}

// end notes what the connection's hello says.
func (c *connection) end(r Result) {
	c.result, c.have = r, nil
	if r.State == Malformed {
		c.hello = nil
	}
}
