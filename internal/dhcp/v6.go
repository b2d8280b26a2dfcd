package dhcp

import (
	"bytes"
	"encoding/binary"
	"time"

	"github.com/insomniacslk/dhcp/rfc1035label"
)

// RFC 8415: message types (section 7.3), options (section 21), status codes (section
// 21.13), DUIDs (section 11). RFC 3646, section 3 and 4, and RFC 4704: options about
// names.
const (
	typeSolicit6           = 1
	typeAdvertise6         = 2
	typeRequest6           = 3
	typeConfirm6           = 4
	typeRenew6             = 5
	typeRebind6            = 6
	typeReply6             = 7
	typeRelease6           = 8
	typeDecline6           = 9
	typeInformationRequest = 11

	optClientID     = 1
	optServerID     = 2
	optIANA         = 3
	optIATA         = 4
	optIAAddr       = 5
	optStatus       = 13
	optRapidCommit6 = 14
	optResolvers6   = 23
	optSearch6      = 24
	optIAPD         = 25
	optFQDN6        = 39

	statusSuccess   = 0
	statusNotOnLink = 4

	duidLL       = 3
	hardwareType = 1 // Ethernet

	maxDUID = 130 // section 11.1: 128 bytes and the type

	ianaLen   = 12 // of IA_NA before its options: IAID, T1, T2
	iaAddrLen = 24 // of IAADDR before its options: address, two lifetimes
)

// request6 is what matters of a message.
type request6 struct {
	client, server []byte
	ias            [][]byte // values of IA_NA
	otherIA        bool     // IA_TA or IA_PD
	rapid          bool
	fqdn           []byte
}

// leases6 reports whether there is an address to give.
func (cfg *Config) leases6() bool { return cfg.Plan.Outside && cfg.Plan.Guest6.IsValid() }

// HandleV6 takes the UDP payload of a datagram to port 547 of ff02::1:2 or of
// the gateway, and gives the payload of the answer, which goes back to the
// sender's address, port 546; nil means none. A guest whose subnets lie outside is given
// its address. Otherwise this server has none to give, and only INFORMATION-REQUEST is
// answered (RFC 8415, section 18.3.6). Any bytes are safe.
func (s *Server) HandleV6(req []byte) (resp []byte) {
	if !s.cfg.Plan.IPv6() || len(req) < 4 || len(req) > maxRequest {
		return nil
	}
	var q request6
	if !q.parse(req[4:]) {
		return nil
	}
	duid := append([]byte{0, duidLL, 0, hardwareType}, s.cfg.MAC[:]...)
	if q.server != nil && !bytes.Equal(q.server, duid) {
		return nil
	}
	kind := req[0]
	if kind == typeInformationRequest {
		if q.ias != nil || q.otherIA {
			return nil // section 16.12
		}
	} else if !s.cfg.leases6() || !q.valid(kind) {
		return nil
	}
	answer := byte(typeReply6)
	if kind == typeSolicit6 && !q.rapid {
		answer = typeAdvertise6
	}
	// The transaction id is the client's.
	resp = append([]byte{answer}, req[1:4]...)
	resp = appendOption6(resp, optServerID, duid)
	if q.client != nil {
		resp = appendOption6(resp, optClientID, q.client)
	}
	return s.answer6(resp, kind, &q)
}

// parse reports whether the options can be read.
func (q *request6) parse(rest []byte) bool {
	for len(rest) > 0 {
		code, value, after, ok := cutOption6(rest)
		if !ok {
			return false
		}
		rest = after
		switch code {
		case optClientID:
			if len(value) > maxDUID {
				return false
			}
			q.client = value
		case optServerID:
			q.server = value
		case optIANA:
			if len(value) < ianaLen {
				return false
			}
			q.ias = append(q.ias, value)
		case optIATA, optIAPD:
			q.otherIA = true
		case optRapidCommit6:
			q.rapid = true
		case optFQDN6:
			q.fqdn = value
		}
	}
	return true
}

// valid reports whether a message of a client names both ends as it must (section 16).
func (q *request6) valid(kind byte) bool {
	switch kind {
	case typeSolicit6, typeConfirm6, typeRebind6:
		return q.client != nil && q.server == nil
	case typeRequest6, typeRenew6, typeRelease6, typeDecline6:
		return q.client != nil && q.server != nil
	}
	return false
}

// answer6 adds the options of the answer to a kind of message.
func (s *Server) answer6(m []byte, kind byte, q *request6) []byte {
	switch kind {
	case typeConfirm6:
		return appendStatus6(m, s.confirm6(q))
	case typeRelease6, typeDecline6: // the next client is given it again
		return appendStatus6(m, statusSuccess)
	case typeSolicit6:
		if q.rapid {
			m = appendOption6(m, optRapidCommit6, nil)
		}
	}
	for _, ia := range q.ias {
		m = appendOption6(m, optIANA, s.lease6(ia))
	}
	if b := s.cfg.resolvers(true); len(b) > 0 {
		m = appendOption6(m, optResolvers6, b)
	}
	if b := s.cfg.search(); len(b) > 0 {
		m = appendOption6(m, optSearch6, b)
	}
	if len(q.fqdn) > 0 && s.cfg.FQDN != "" {
		const overridden, noUpdate = 2, 4 // RFC 4704, section 4.1
		flags := byte(noUpdate)
		if q.fqdn[0]&1 != 0 {
			flags |= overridden
		}
		m = appendOption6(m, optFQDN6, append([]byte{flags}, (&rfc1035label.Labels{Labels: []string{s.cfg.FQDN}}).ToBytes()...))
	}
	return m
}

// lease6 answers an IA_NA by one with the guest's address. Any other addresses in it get
// a lifetime of zero (section 18.3.4).
func (s *Server) lease6(asked []byte) []byte {
	own := s.cfg.Plan.Guest6.As16()
	be, lease := binary.BigEndian, uint32(s.cfg.Lease/time.Second)
	m := append([]byte(nil), asked[:4]...)
	m = be.AppendUint32(m, lease/2) // section 21.4 recommends the ratios
	m = be.AppendUint32(m, lease/5*4)
	address := func(ip [16]byte, lifetime uint32) {
		value := be.AppendUint32(be.AppendUint32(ip[:], lifetime), lifetime)
		m = appendOption6(m, optIAAddr, value)
	}
	address(own, lease)
	eachAddress6(asked, func(ip [16]byte) {
		if ip != own {
			address(ip, 0)
		}
	})
	return m
}

// confirm6 says whether the addresses of a client are valid on its link.
func (s *Server) confirm6(q *request6) uint16 {
	status := uint16(statusSuccess)
	own := s.cfg.Plan.Guest6.As16()
	for _, ia := range q.ias {
		eachAddress6(ia, func(ip [16]byte) {
			if ip != own {
				status = statusNotOnLink
			}
		})
	}
	return status
}

// eachAddress6 visits the addresses in an IA_NA.
func eachAddress6(ia []byte, visit func([16]byte)) {
	for rest := ia[ianaLen:]; len(rest) > 0; {
		code, value, after, ok := cutOption6(rest)
		if !ok {
			return
		}
		rest = after
		if code == optIAAddr && len(value) >= iaAddrLen {
			visit([16]byte(value))
		}
	}
}

// cutOption6 takes the first option off; ok is false if it is cut short.
func cutOption6(b []byte) (code uint16, value, rest []byte, ok bool) {
	if len(b) < 4 {
		return 0, nil, nil, false
	}
	code, n := binary.BigEndian.Uint16(b), int(binary.BigEndian.Uint16(b[2:]))
	if len(b) < 4+n {
		return 0, nil, nil, false
	}
	return code, b[4 : 4+n], b[4+n:], true
}

func appendOption6(m []byte, code uint16, value []byte) []byte {
	m = binary.BigEndian.AppendUint16(m, code)
	m = binary.BigEndian.AppendUint16(m, uint16(len(value)))
	return append(m, value...)
}

func appendStatus6(m []byte, status uint16) []byte {
	return appendOption6(m, optStatus, binary.BigEndian.AppendUint16(nil, status))
}
