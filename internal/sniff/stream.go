package sniff

// Header and types of records, RFC 8446 section 5.1.
const (
	recordHeader    = 5
	recordFirst     = 20 // change_cipher_spec
	recordAlert     = 21
	recordHandshake = 22
	recordLast      = 24 // heartbeat, RFC 6520
	recordMax       = 1 << 14
)

// Stream reads the beginning of what a client sends on a connection: TLS, HTTP/1 or
// something else. Its zero value is ready to use.
type Stream struct {
	kind streamKind
	buf  []byte // of TLS: the handshake so far; of HTTP: what has come

	requested bool // HTTP: the first line is there
	blank     int  // HTTP: bytes before it

	record int    // TLS: bytes that the present record still has
	header []byte // TLS: of a record, incomplete
	result Result
}

type streamKind uint8

const (
	unknownKind streamKind = iota
	tlsKind
	httpKind
	oldKind // perhaps TLS, with a hello in the form of SSL 2.0
)

// Of a hello in that form, RFC 5246 appendix E.2.
const (
	oldHeader = 4 // length, type, and the first byte of the version
	oldLeast  = 9 // bytes that the length counts: the fields of fixed size
)

// Feed takes what has come since the last call. A state other than More is final.
func (s *Stream) Feed(b []byte) Result {
	for s.result.State == More && len(b) > 0 {
		switch s.kind {
		case unknownKind:
			s.begin(b[0])
		case tlsKind:
			b = s.feedTLS(b)
		case httpKind:
			s.feedHTTP(b)
			b = nil
		case oldKind:
			s.feedOld(b)
			b = nil
		}
	}
	if s.result.State != More {
		s.buf, s.header = nil, nil
	}
	return s.result
}

// Protocol is "tls" or "http" once the first byte has come, "" for anything else.
func (s *Stream) Protocol() string { return [...]string{"", "tls", "http", ""}[s.kind] }

// begin tells protocols apart by their first byte.
func (s *Stream) begin(first byte) {
	switch {
	case recordFirst <= first && first <= recordLast:
		s.kind = tlsKind
	case isToken(first), isBlank(first):
		s.kind = httpKind
	case first>>6 == 2: // a length below 16 KiB
		s.kind = oldKind
	default:
		s.result.State = Other
	}
}

// feedOld takes what may begin a hello in the form of SSL 2.0, which names no server. Servers
// take one for any version up to TLS 1.2.
func (s *Stream) feedOld(b []byte) {
	s.buf = append(s.buf, b[:min(len(b), oldHeader-len(s.buf))]...)
	h := s.buf
	switch {
	case len(h) > 1 && int(h[0]&0x3f)<<8|int(h[1]) < oldLeast, len(h) > 2 && h[2] != handshakeClientHello, len(h) > 3 && h[3] != 3:
		s.result.State = Other
	case len(h) == oldHeader:
		s.result.State = Nameless
	}
}

// feedTLS takes bytes up to the end of one record, and returns the rest.
func (s *Stream) feedTLS(b []byte) (rest []byte) {
	if s.record == 0 {
		n := min(recordHeader-len(s.header), len(b))
		s.header = append(s.header, b[:n]...)
		s.beginRecord()
		return b[n:]
	}
	n := min(s.record, len(b))
	s.buf = append(s.buf, b[:n]...)
	s.record -= n
	size, state := helloSize(s.buf)
	switch {
	case state == Malformed:
		s.result.State = Malformed
	case state == Named && len(s.buf) == size && s.record == 0:
		s.result = parseHello(s.buf)
	case state == Named && len(s.buf)+s.record > size:
		// RFC 8446 section 5.1: no message may follow a hello in its record, since the
		// keys change there.
		s.result.State = Malformed
	}
	return b[n:]
}

// beginRecord checks a record's header as far as it has come. Servers skip other records
// before a hello, such as a warning: what begins with one is TLS as well. Some accept any
// version below 16 in the first.
func (s *Stream) beginRecord() {
	h := s.header
	switch {
	case len(h) > 1 && h[1] != 3 && len(s.buf) == 0 && (h[1] >= 16 || h[0] != recordAlert && h[0] != recordHandshake):
		s.result.State = Other
	case len(h) > 1 && (h[0] != recordHandshake || h[1] != 3):
		s.result.State = Malformed
	case len(h) == recordHeader:
		s.record = int(h[3])<<8 | int(h[4])
		s.header = s.header[:0]
		if s.record == 0 || s.record > recordMax {
			s.result.State = Malformed
		}
	}
}
