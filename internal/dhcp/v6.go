package dhcp

import (
	"bytes"
	"encoding/binary"
)

// Of RFC 8415: message types (section 7.3), options (section 21), DUIDs
// (section 11); and the resolver option of RFC 3646, section 3.
const (
	typeReply6             = 7
	typeInformationRequest = 11

	optClientID   = 1
	optServerID   = 2
	optIANA       = 3
	optIATA       = 4
	optResolvers6 = 23
	optIAPD       = 25

	duidLL       = 3
	hardwareType = 1 // Ethernet

	maxDUID = 130 // section 11.1: 128 bytes and the type
)

// HandleV6 takes the UDP payload of a datagram to port 547 of ff02::1:2 or of
// the gateway, and gives the payload of the answer, which goes back to the
// sender's address, port 546; nil means none. Only INFORMATION-REQUEST is
// answered, with the resolver's address (RFC 8415, section 18.3.6): this server
// has no addresses to give. Any bytes are safe.
func (s *Server) HandleV6(req []byte) (resp []byte) {
	if !s.cfg.Plan.IPv6() || len(req) < 4 || len(req) > maxRequest || req[0] != typeInformationRequest {
		return nil
	}
	duid := append([]byte{0, duidLL, 0, hardwareType}, s.cfg.MAC[:]...)
	var client []byte
	for rest := req[4:]; len(rest) > 0; {
		if len(rest) < 4 {
			return nil
		}
		code := binary.BigEndian.Uint16(rest)
		n := int(binary.BigEndian.Uint16(rest[2:]))
		if len(rest) < 4+n {
			return nil
		}
		value := rest[4 : 4+n]
		rest = rest[4+n:]
		switch code {
		case optClientID:
			if n > maxDUID {
				return nil
			}
			client = value
		case optServerID:
			if !bytes.Equal(value, duid) {
				return nil
			}
		case optIANA, optIATA, optIAPD:
			return nil // section 16.12
		}
	}
	// The transaction id is the client's.
	resp = append([]byte{typeReply6}, req[1:4]...)
	resp = appendOption6(resp, optServerID, duid)
	if client != nil {
		resp = appendOption6(resp, optClientID, client)
	}
	return appendOption6(resp, optResolvers6, s.cfg.Plan.DNS6.AsSlice())
}

func appendOption6(m []byte, code uint16, value []byte) []byte {
	m = binary.BigEndian.AppendUint16(m, code)
	m = binary.BigEndian.AppendUint16(m, uint16(len(value)))
	return append(m, value...)
}
