package egress

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

const (
	// maxChain bounds the aliases that are followed from a name.
	maxChain = 16
	// maxAddresses bounds the addresses taken from one answer.
	maxAddresses = 32
)

// Reply is what a nameserver says about a name.
type Reply struct {
	Code      dnsmessage.RCode
	Truncated bool
	TTL       time.Duration // the least of the records that lead to Addrs
	Addrs     []netip.Addr
	records   []dnsmessage.Resource // of the type that was asked for, at the end of the aliases
}

// ReadReply reads a response to the question of Upstream. It follows aliases within the
// response: rules do not apply to them, since the name asked for was allowed. ok is false if
// the response cannot be read.
func ReadReply(response []byte, name string, t dnsmessage.Type) (r Reply, ok bool) {
	var p dnsmessage.Parser
	h, err := p.Start(response)
	if err != nil || !h.Response || p.SkipAllQuestions() != nil {
		return r, false
	}
	r.Code, r.Truncated = h.RCode, h.Truncated
	aliases := make(map[string]dnsmessage.Resource)
	var found []dnsmessage.Resource
	for {
		h, err := p.AnswerHeader()
		if err != nil {
			break // also at the end of a truncated answer
		}
		if h.Class != dnsmessage.ClassINET || h.Type != t && h.Type != dnsmessage.TypeCNAME {
			if p.SkipAnswer() != nil {
				break
			}
			continue
		}
		record, err := p.Answer()
		if err != nil {
			break
		}
		if h.Type == dnsmessage.TypeCNAME && t != dnsmessage.TypeCNAME {
			aliases[owner(h.Name)] = record
			continue
		}
		found = append(found, record)
	}
	end, ttl := name, uint32(1<<31-1)
	for range maxChain {
		alias, ok := aliases[end]
		if !ok {
			break
		}
		ttl = min(ttl, alias.Header.TTL)
		end = owner(alias.Body.(*dnsmessage.CNAMEResource).CNAME)
	}
	for _, record := range found {
		if owner(record.Header.Name) != end {
			continue
		}
		ttl = min(ttl, record.Header.TTL)
		switch body := record.Body.(type) {
		case *dnsmessage.AResource:
			r.Addrs = append(r.Addrs, netip.AddrFrom4(body.A))
		case *dnsmessage.AAAAResource:
			r.Addrs = append(r.Addrs, netip.AddrFrom16(body.AAAA).Unmap())
		}
		r.records = append(r.records, record)
	}
	r.Addrs = r.Addrs[:min(len(r.Addrs), maxAddresses)]
	r.TTL = time.Duration(ttl) * time.Second
	return r, true
}

// owner returns a name in lower case without its last dot, as Canonical would.
func owner(n dnsmessage.Name) string { return strings.ToLower(strings.TrimSuffix(n.String(), ".")) }

// finish makes the guest's answer from a nameserver's: the records that it asked for, under
// the name that it asked for, without any that would bypass us.
func (q *Questions) finish(p *Policy, r *response, name string, reply []byte, now time.Duration) []byte {
	t := r.m.Questions[0].Type
	a, ok := ReadReply(reply, name, t)
	if !ok {
		return r.negative(dnsmessage.RCodeServerFailure, "")
	}
	r.m.Truncated = a.Truncated
	for _, record := range a.records {
		ttl := record.Header.TTL
		switch body := record.Body.(type) {
		case *dnsmessage.AResource:
			if q.pin(p, name, netip.AddrFrom4(body.A), a.TTL, now) {
				r.add(ttl, body)
			}
		case *dnsmessage.AAAAResource:
			if q.pin(p, name, netip.AddrFrom16(body.AAAA), a.TTL, now) {
				r.add(ttl, body)
			}
		case *dnsmessage.HTTPSResource:
			if cleanService(p, name, &body.SVCBResource) {
				r.add(ttl, body)
			}
		case *dnsmessage.SVCBResource:
			if cleanService(p, name, body) {
				r.add(ttl, body)
			}
		default:
			r.add(ttl, body)
		}
	}
	if len(r.m.Answers) == 0 && !r.m.Truncated {
		return r.negative(a.Code, "")
	}
	return r.pack()
}

// pin allows an address for a name for a while, and reports whether the name may have it at
// all.
func (q *Questions) pin(p *Policy, name string, a netip.Addr, ttl, now time.Duration) bool {
	if !p.Pin {
		return false // only dns any asks for them here, and the guest could not use them
	}
	return q.Pins.Add(p, name, a, now+max(ttl, MinPin))
}

// cleanService removes from a service's parameters (RFC 9460) what would hide the name on the
// wire or lead past the name's own address, and reports whether the record is still of use.
func cleanService(p *Policy, name string, s *dnsmessage.SVCBResource) bool {
	target := owner(s.Target)
	if target != "" && target != name && !p.DecideName(target).Allow {
		return false
	}
	removed := []dnsmessage.SVCParamKey{dnsmessage.SVCParamECH, dnsmessage.SVCParamIPv4Hint, dnsmessage.SVCParamIPv6Hint}
	for _, key := range removed {
		s.DeleteParam(key)
	}
	mandatory, ok := s.GetParam(dnsmessage.SVCParamMandatory)
	if !ok {
		return true
	}
	var kept []byte
	for ; len(mandatory) >= 2; mandatory = mandatory[2:] {
		if !slices.Contains(removed, dnsmessage.SVCParamKey(binary.BigEndian.Uint16(mandatory))) {
			kept = append(kept, mandatory[:2]...)
		}
	}
	if len(kept) == 0 {
		s.DeleteParam(dnsmessage.SVCParamMandatory)
	} else {
		s.SetParam(dnsmessage.SVCParamMandatory, kept)
	}
	return true
}
