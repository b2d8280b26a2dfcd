package dns

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
)

// readMessage reads one message with its length before it (RFC 1035, section
// 4.2.2). Memory is taken only for bytes that have come.
func readMessage(in *bufio.Reader) ([]byte, error) {
	var length [2]byte
	if _, err := io.ReadFull(in, length[:]); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint16(length[:]))
	m := make([]byte, 0, min(n, 2<<10))
	for len(m) < n {
		if len(m) == cap(m) {
			m = slices.Grow(m, min(n-len(m), len(m)))
		}
		k, err := in.Read(m[len(m):min(cap(m), n)])
		m = m[:len(m)+k]
		if err != nil && len(m) < n {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
	return m, nil
}

// writeMessage writes length and message at once, as RFC 7766, section 8 asks.
func writeMessage(out net.Conn, m []byte) error {
	framed := make([]byte, 2, 2+len(m))
	binary.BigEndian.PutUint16(framed, uint16(len(m)))
	_, err := out.Write(append(framed, m...))
	return err
}
