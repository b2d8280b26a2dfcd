package dns

import (
	"bytes"
	"encoding/binary"

	"golang.org/x/net/dns/dnsmessage"
)

// Offsets and values of the header, RFC 1035, section 4.1.1.
const (
	headerLen = 12

	flagQR     = 0x80 // byte 2: the message is a response
	flagOpRD   = 0x79 // byte 2: opcode and RD, which a response copies
	flagRA     = 0x80 // byte 3
	flagCD     = 0x10 // byte 3: copied, RFC 4035, section 3.2.2
	maskRcode  = 0x0f // byte 3
	maxMessage = 65535
)

func rcodeOf(m []byte) dnsmessage.RCode { return dnsmessage.RCode(m[3] & maskRcode) }

// isQuery reports whether m can be a query at all. It may still be malformed: the
// nameserver judges that.
func isQuery(m []byte) bool {
	return len(m) >= headerLen && len(m) <= maxMessage && m[2]&flagQR == 0
}

// isFailure reports whether the response m says that this nameserver could not
// or would not answer, so that another one may do better.
func isFailure(m []byte) bool {
	switch rcodeOf(m) {
	case dnsmessage.RCodeServerFailure, dnsmessage.RCodeNotImplemented, dnsmessage.RCodeRefused:
		return true
	}
	return false
}

// answers reports whether the response m answers the query q, whatever the ids: it
// repeats the question, with letters of either case. An error may come without a
// question: some servers omit it when they could not parse it.
func answers(m, q []byte) bool {
	if len(m) < headerLen || m[2]&flagQR == 0 {
		return false
	}
	asked, name := question(q)
	if asked == nil {
		return true
	}
	if binary.BigEndian.Uint16(m[4:]) == 0 {
		return rcodeOf(m) != dnsmessage.RCodeSuccess && rcodeOf(m) != dnsmessage.RCodeNameError
	}
	got, _ := question(m)
	return len(got) == len(asked) &&
		equalFold(got[:name], asked[:name]) &&
		bytes.Equal(got[name:], asked[name:])
}

// question returns the question section of a message with exactly one question,
// and the length of the name at its start; nil for any other message. It works on
// bytes, as dnsmessage.Parser refuses names with a dot in a label.
func question(m []byte) (section []byte, name int) {
	if len(m) < headerLen || binary.BigEndian.Uint16(m[4:]) != 1 {
		return nil, 0
	}
	end := skipName(m, headerLen)
	if end < 0 || end+4 > len(m) {
		return nil, 0
	}
	return m[headerLen : end+4], end - headerLen
}

// skipName returns the offset after the name at off, or -1. A compression pointer
// ends a name; it is not followed.
func skipName(m []byte, off int) int {
	for off < len(m) {
		switch n := int(m[off]); {
		case n == 0:
			return off + 1
		case n >= 0xc0:
			if off+2 > len(m) {
				return -1
			}
			return off + 2
		case n > 63:
			return -1
		default:
			off += 1 + n
		}
	}
	return -1
}

// equalFold compares names of equal length, ASCII letters in either case
// (RFC 4343). Label lengths are below 64 and therefore no letters.
func equalFold(a, b []byte) bool {
	for i := range a {
		if lower(a[i]) != lower(b[i]) {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

// servFail builds the answer "server failure" to the query q, which isQuery has
// accepted, with the given id. It repeats the question if there is exactly one,
// and carries an OPT record if q does (RFC 6891, section 6.1.1).
func servFail(q []byte, id uint16) []byte {
	section, _ := question(q)
	m := make([]byte, headerLen, headerLen+len(section)+11)
	binary.BigEndian.PutUint16(m, id)
	m[2] = flagQR | q[2]&flagOpRD
	m[3] = flagRA | q[3]&flagCD | byte(dnsmessage.RCodeServerFailure)
	if section != nil {
		m[5] = 1
		m = append(m, section...)
	}
	if hasOPT(q) {
		const payload = 1232 // what passes anywhere unfragmented; DNS flag day 2020
		m[11] = 1
		m = append(m, 0, 0, byte(dnsmessage.TypeOPT), payload>>8, payload&0xff, 0, 0, 0, 0, 0, 0)
	}
	return m
}

// hasOPT reports whether q carries an OPT record in its additional section.
func hasOPT(q []byte) bool {
	var p dnsmessage.Parser
	if _, err := p.Start(q); err != nil {
		return false
	}
	if p.SkipAllQuestions() != nil || p.SkipAllAnswers() != nil || p.SkipAllAuthorities() != nil {
		return false
	}
	for {
		h, err := p.AdditionalHeader()
		if err != nil {
			return false
		}
		if h.Type == dnsmessage.TypeOPT {
			return true
		}
		if p.SkipAdditional() != nil {
			return false
		}
	}
}
