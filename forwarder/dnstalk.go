package forwarder

import (
	"encoding/binary"
	"hash/maphash"

	"epiphyte/stack"
)

const portDNS = 53

// dnsTalk recognises a mapping that a stub resolver has used only for queries, all of
// them answered: it will not be used again, for a stub takes a new port each time. The
// port number alone says little, since VPNs like port 53, too.
type dnsTalk struct {
	other bool // the guest has sent something else: no question matters any more
	asked [4]dnsQuestion
	count uint8 // of asked
}

// dnsQuestion identifies a question and its answer.
type dnsQuestion struct {
	id       uint16
	answered bool
	sum      uint64 // hash of name, type and class
}

// sent takes note of a datagram of the guest's.
func (t *dnsTalk) sent(seed maphash.Seed, p *stack.Packet) {
	q, ok := parseQuestion(seed, p.Head[8:], false)
	if !ok || p.DstPort() != portDNS || p.SegmentSize != 0 || len(p.Tail) != 0 {
		t.other = true
		return
	}
	place := t.find(q)
	if place == nil {
		place = t.free()
	}
	if place == nil {
		t.other = true // a stub has no more than an A and an AAAA query under way
		return
	}
	*place = q
}

// received takes note of a datagram from port 53.
func (t *dnsTalk) received(seed maphash.Seed, b []byte) {
	if q, ok := parseQuestion(seed, b, true); ok {
		if asked := t.find(q); asked != nil {
			asked.answered = true
		}
	}
}

func (t *dnsTalk) find(q dnsQuestion) *dnsQuestion {
	for i := range t.asked[:t.count] {
		if a := &t.asked[i]; a.id == q.id && a.sum == q.sum {
			return a
		}
	}
	return nil
}

// free is a place for one more question, nil if all wait for their answers.
func (t *dnsTalk) free() *dnsQuestion {
	if int(t.count) < len(t.asked) {
		t.count++
		return &t.asked[t.count-1]
	}
	for i := range t.asked {
		if t.asked[i].answered {
			return &t.asked[i]
		}
	}
	return nil
}

// over reports whether there were questions and nothing else, and all are answered.
func (t *dnsTalk) over() bool {
	if t.other || t.count == 0 {
		return false
	}
	for i := range t.asked[:t.count] {
		if !t.asked[i].answered {
			return false
		}
	}
	return true
}

// parseQuestion reads the one question of what looks like a standard query, or the
// response to one (RFC 1035, section 4.1).
func parseQuestion(seed maphash.Seed, b []byte, response bool) (dnsQuestion, bool) {
	const header, opcode, qr = 12, 0x78, 0x80
	if len(b) < header || b[2]&opcode != 0 || (b[2]&qr != 0) != response || binary.BigEndian.Uint16(b[4:]) != 1 {
		return dnsQuestion{}, false
	}
	if !response && binary.BigEndian.Uint32(b[6:]) != 0 { // answers and authorities
		return dnsQuestion{}, false
	}
	end := header
	for end < len(b) && b[end] != 0 {
		if b[end] > 63 {
			return dnsQuestion{}, false // not a label: the first name is never compressed
		}
		end += 1 + int(b[end])
	}
	end += 1 + 4 // the root, type and class
	if end > len(b) || end > header+255+4 {
		return dnsQuestion{}, false
	}
	return dnsQuestion{id: binary.BigEndian.Uint16(b), sum: maphash.Bytes(seed, b[header:end])}, true
}
