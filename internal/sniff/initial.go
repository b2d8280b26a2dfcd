package sniff

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
)

// long is a packet with a long header, RFC 9000 section 17.2.
type long struct {
	version     uint32
	initial     bool
	destination []byte // connection id
	packet      []byte // all of it
	number      int    // of an Initial: offset of the packet number
}

// parseLong reads the packet at the front of a datagram; next is what follows it. ok is
// false for malformed packets, unknown versions, and a Retry, which no client sends.
func parseLong(b []byte) (p long, next []byte, ok bool) {
	const maxID = 20 // RFC 9000 section 17.2
	c := cursor{rest: b}
	first := c.number(1)
	p.version = uint32(c.number(4))
	p.destination = c.vector(1)
	source := c.vector(1)
	if c.bad || len(p.destination) > maxID || len(source) > maxID {
		return p, nil, false
	}
	kind := first >> 4 & 3
	switch p.version {
	case version1:
	case version2:
		kind = (kind + 3) & 3 // RFC 9369 section 3.2 has each type one higher
	default:
		return p, nil, false
	}
	if kind == 3 {
		return p, nil, false
	}
	if p.initial = kind == 0; p.initial {
		token := c.varint()
		if token > uint64(len(c.rest)) {
			return p, nil, false
		}
		c.take(int(token))
	}
	length := c.varint()
	if c.bad || length > uint64(len(c.rest)) {
		return p, nil, false
	}
	p.number = len(b) - len(c.rest)
	p.packet = b[:p.number+int(length)]
	return p, b[len(p.packet):], true
}

// keys protect the Initials of a client, RFC 9001 section 5.
type keys struct {
	aead   cipher.AEAD
	iv     []byte
	header cipher.Block
}

// initialKeys follow from the version and the first destination id: RFC 9001 section
// 5.2, RFC 9369 section 3.3.
func initialKeys(version uint32, id []byte) *keys {
	salt := []byte{0x38, 0x76, 0x2c, 0xf7, 0xf5, 0x59, 0x34, 0xb3, 0x4d, 0x17, 0x9a, 0xe6, 0xa4, 0xc8, 0x0c, 0xad, 0xcc, 0xbb, 0x7f, 0x0a}
	prefix := "quic"
	if version == version2 {
		salt = []byte{0x0d, 0xed, 0xe3, 0xde, 0xf7, 0x00, 0xa6, 0xdb, 0x81, 0x93, 0x81, 0xbe, 0x6e, 0x26, 0x9d, 0xcb, 0xf9, 0xbd, 0x2e, 0xd9}
		prefix = "quicv2"
	}
	// None of these fail, since the lengths are constant.
	initial, _ := hkdf.Extract(sha256.New, id, salt)
	client := expandLabel(initial, "client in", sha256.Size)
	block, _ := aes.NewCipher(expandLabel(client, prefix+" key", 16))
	k := &keys{iv: expandLabel(client, prefix+" iv", 12)}
	k.aead, _ = cipher.NewGCM(block)
	k.header, _ = aes.NewCipher(expandLabel(client, prefix+" hp", 16))
	return k
}

// expandLabel is HKDF-Expand-Label with an empty context, RFC 8446 section 7.1.
func expandLabel(secret []byte, label string, length int) []byte {
	label = "tls13 " + label
	info := append([]byte{byte(length >> 8), byte(length), byte(len(label))}, label...)
	key, _ := hkdf.Expand(sha256.New, secret, string(append(info, 0)), length)
	return key
}

// open removes header protection and decrypts, RFC 9001 sections 5.3 and 5.4, without
// changing the packet. largest is the greatest packet number so far, -1 if there is none.
func (k *keys) open(p *long, largest int64) (payload []byte, number int64, ok bool) {
	const sample = 16
	if p.number+4+sample > len(p.packet) {
		return nil, 0, false
	}
	var mask [aes.BlockSize]byte
	k.header.Encrypt(mask[:], p.packet[p.number+4:][:sample])
	first := p.packet[0] ^ mask[0]&0x0f
	size := int(first&3) + 1
	header := append([]byte(nil), p.packet[:p.number+size]...)
	header[0] = first
	truncated := int64(0)
	for i := range size {
		header[p.number+i] ^= mask[1+i]
		truncated = truncated<<8 | int64(header[p.number+i])
	}
	number = expandNumber(largest, truncated, size)
	nonce := append([]byte(nil), k.iv...)
	var n [8]byte
	binary.BigEndian.PutUint64(n[:], uint64(number))
	for i, b := range n {
		nonce[len(nonce)-8+i] ^= b
	}
	payload, err := k.aead.Open(nil, nonce, p.packet[p.number+size:], header)
	return payload, number, err == nil
}

// expandNumber finds the packet number closest to the one expected: RFC 9000 appendix
// A.3.
func expandNumber(largest, truncated int64, size int) int64 {
	expected := largest + 1
	window := int64(1) << (8 * size)
	candidate := expected&^(window-1) | truncated
	switch {
	case candidate <= expected-window/2 && candidate < 1<<62-window:
		return candidate + window
	case candidate > expected+window/2 && candidate >= window:
		return candidate - window
	}
	return candidate
}
