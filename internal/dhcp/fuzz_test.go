package dhcp

import (
	"bytes"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv6"

	"epiphyte/internal/addressing/addressingtest"
)

// FuzzHandle: an answer belongs to its request, and what it leases is of the pool and
// the client's alone.
func FuzzHandle(f *testing.F) {
	p := addressingtest.New(f)
	for _, kind := range []dhcpv4.MessageType{none, discover, request, dhcpv4.MessageTypeInform, dhcpv4.MessageTypeRelease} {
		m, err := dhcpv4.New(dhcpv4.WithHwAddr(mac(1)), wishFor("10.0.2.17"))
		if err != nil {
			f.Fatal(err)
		}
		if kind != none {
			m.UpdateOption(dhcpv4.OptMessageType(kind))
		}
		whole := m.ToBytes()
		for _, n := range []int{0, 1, 28, 43, 44, 235, 236, 239, 240, 241, 245, len(whole)} {
			f.Add(whole[:n])
		}
		// Hardware addresses of lengths that lie; odd option lengths.
		for _, hlen := range []byte{0, 16, 17, 255} {
			b := append([]byte(nil), whole...)
			b[2] = hlen
			f.Add(b)
		}
		for _, options := range []string{"\x35", "\x35\x00\xff", "\x35\x02\x01\x01\xff", "\x35\x01\x03\x32\x03\x0a\x00\x02\xff", "\x35\x01\x03\x36\x05\x0a\x00\x02\x02\x00\xff", "\x35\x01\x01\x3d\x00\xff"} {
			f.Add(append(append([]byte(nil), whole[:bootpLen+4]...), options...))
		}
	}
	s := New(Config{Plan: p, Now: func() time.Time { return time.Unix(1e9, 0) }})
	f.Fuzz(func(t *testing.T, b []byte) {
		s.slots = [poolSize]slot{}
		if m, err := dhcpv4.New(dhcpv4.WithHwAddr(mac(99)), dhcpv4.WithMessageType(request)); err != nil || s.Handle(m.ToBytes()) == nil {
			t.Fatalf("the other client has no lease: %v", err)
		}
		before := bytes.Clone(b)
		resp := s.Handle(b)
		if !bytes.Equal(before, b) {
			t.Error("the request has been changed")
		}
		if s.slots[0].client != string(mac(99)) && !bytes.Contains(b, mac(99)) {
			t.Errorf("the other client's lease is %+v", s.slots[0])
		}
		if resp == nil {
			return
		}
		if len(resp) > 2*maxRequest {
			t.Errorf("answer of %d bytes", len(resp))
		}
		r, err := dhcpv4.FromBytes(resp)
		if err != nil {
			t.Fatalf("answer does not parse: %v", err)
		}
		q, err := dhcpv4.FromBytes(withCookie(b))
		if err != nil {
			t.Fatalf("an answer to what does not parse: %v", err)
		}
		if r.OpCode != dhcpv4.OpcodeBootReply || r.TransactionID != q.TransactionID || !bytes.Equal(r.ClientHWAddr, q.ClientHWAddr) {
			t.Errorf("answer %v does not belong to %v", r, q)
		}
		i := s.index(address(r.YourIPAddr))
		switch kind := r.MessageType(); {
		case kind == nak || kind == ack && q.MessageType() == dhcpv4.MessageTypeInform:
			if address(r.YourIPAddr).IsValid() {
				t.Errorf("%v gives an address", r)
			}
		case kind != offer && kind != ack, i < 0, s.slots[max(i, 0)].client != string(q.ClientHWAddr):
			t.Errorf("%v to %v, with slot %d", r, q, i)
		}
	})
}

// FuzzHandleV6: an answer belongs to its request.
func FuzzHandleV6(f *testing.F) {
	p := addressingtest.New(f)
	whole := append([]byte{typeInformationRequest, 1, 2, 3}, 0, 1, 0, 10, 0, 3, 0, 1, 2, 0, 0, 0, 0, 1, 0, 6, 0, 2, 0, 23)
	for n := range len(whole) + 1 {
		f.Add(whole[:n])
	}
	f.Add([]byte{typeInformationRequest, 1, 2, 3, 0, 1, 0xff, 0xff})
	s := New(Config{Plan: p})
	f.Fuzz(func(t *testing.T, b []byte) {
		resp := s.HandleV6(b)
		if resp == nil {
			return
		}
		if len(resp) > maxRequest {
			t.Errorf("answer of %d bytes", len(resp))
		}
		if resp[0] != typeReply6 || !bytes.Equal(resp[1:4], b[1:4]) {
			t.Errorf("answer %x to %x", resp, b)
		}
		q, err := dhcpv6.MessageFromBytes(b)
		if err != nil {
			return // the library reads all options, also those that do not matter here
		}
		r, err := dhcpv6.MessageFromBytes(resp)
		if err != nil {
			t.Fatalf("answer to %v does not parse: %v", q, err)
		}
		if dns := r.Options.DNS(); len(dns) != 1 || !dns[0].Equal(p.DNS6.AsSlice()) || r.Options.ServerID() == nil {
			t.Errorf("answer %v", r)
		}
		if id := q.Options.ClientID(); (id == nil) != (r.Options.ClientID() == nil) || id != nil && len(q.GetOption(dhcpv6.OptionClientID)) == 1 && !id.Equal(r.Options.ClientID()) {
			t.Errorf("client %v is answered as %v", id, r.Options.ClientID())
		}
	})
}
