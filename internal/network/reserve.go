package network

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"epiphyte/internal/addressing"
	"epiphyte/internal/names"
)

// maxMembers bounds the members of a network; the default subnet has room for 253.
const maxMembers = 1000

// reserve decides what the member gets, and enters it, so that no other gets the same. It
// waits for what a leaving member still has: that may be the same guest.
func (w *Worker) reserve(ctx context.Context, m *membership) error {
	wish := m.Member
	for {
		leaving, err := w.tryReserve(m)
		if err == nil || leaving == nil {
			return err
		}
		m.Member = wish
		select {
		case <-leaving.left:
		case <-ctx.Done():
			return err
		}
	}
}

// tryReserve also returns, when it fails, a member that is leaving, if there is one.
func (w *Worker) tryReserve(m *membership) (leaving *membership, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err = w.enter(m); err != nil {
		for _, other := range w.members {
			if other.leaving {
				leaving = other
			}
		}
	}
	return leaving, err
}

// enter must be called with mu.
func (w *Worker) enter(m *membership) error {
	switch {
	case w.ending:
		return errEnding
	case len(w.members) >= maxMembers:
		return errFull
	}
	for _, name := range append([]string{m.Hostname, m.Name}, m.Aliases...) {
		if name == "" {
			continue
		}
		if err := names.Valid(name); err != nil {
			return err
		}
	}
	if b, err := json.Marshal(m.Member); err != nil || len(b) > maxMember/2 {
		return errors.New("it asks for too much: fewer aliases or published ports will do")
	}
	if err := w.chooseAddresses(m); err != nil {
		return err
	}
	if err := w.chooseMAC(m); err != nil {
		return err
	}
	if m.Name == "" {
		m.Name = "guest-" + m.IPv4.String()[strings.LastIndexByte(m.IPv4.String(), '.')+1:]
	}
	if m.ID == "" {
		var b [8]byte
		rand.Read(b[:])
		m.ID = hex.EncodeToString(b[:])
	}
	if other := w.members[m.ID]; other != nil {
		return fmt.Errorf("this guest is a member already, called %s: --alias gives it more names when it joins", other.Name)
	}
	if other := w.named(m.Name); other != nil {
		return fmt.Errorf("a member called %s is there already: choose another name", m.Name)
	}
	if m.Since.IsZero() {
		m.Since = time.Now().Truncate(time.Second)
	}
	m.guest.Name = m.Name
	w.members[m.ID] = m
	w.remembered[m.Name] = m.IPv4
	return nil
}

// chooseAddresses gives a member the addresses that it wants, or had under its name, or else
// the first that are free.
func (w *Worker) chooseAddresses(m *membership) error {
	taken := func(a netip.Addr) bool {
		for _, other := range w.members {
			if other.IPv4 == a || other.IPv6 == a {
				return true
			}
		}
		return false
	}
	reserved := func(a netip.Addr) bool {
		for name, other := range w.remembered {
			if other == a && name != m.Name {
				return true
			}
		}
		return false
	}
	switch had := w.remembered[m.Name]; {
	case m.IPv4.IsValid():
		if !w.plan.IsMember(m.IPv4) {
			return fmt.Errorf("%v is not an address of a member of %v", m.IPv4, w.plan.Prefix)
		}
		if taken(m.IPv4) {
			return fmt.Errorf("%v is another member's", m.IPv4)
		}
	case had.IsValid() && !taken(had):
		m.IPv4 = had
	default:
		m.IPv4 = w.plan.FirstFree(func(a netip.Addr) bool { return taken(a) || reserved(a) })
		if !m.IPv4.IsValid() {
			clear(w.remembered)
			if m.IPv4 = w.plan.FirstFree(taken); !m.IPv4.IsValid() {
				return errFull
			}
		}
	}
	if !w.plan.IPv6() {
		m.IPv6 = netip.Addr{}
		return nil
	}
	if !m.IPv6.IsValid() {
		m.IPv6 = w.plan.MemberIPv6(m.IPv4)
	}
	if !w.plan.Prefix6.Contains(m.IPv6) || w.plan.IsOwn(m.IPv6) {
		return fmt.Errorf("%v is not an address of a member of %v", m.IPv6, w.plan.Prefix6)
	}
	if taken(m.IPv6) {
		return fmt.Errorf("%v is another member's", m.IPv6)
	}
	return nil
}

func (w *Worker) chooseMAC(m *membership) error {
	m.mac = addressing.MemberHardwareAddr(m.IPv4)
	if m.MAC != "" {
		mac, err := net.ParseMAC(m.MAC)
		if err != nil || len(mac) != 6 || mac[0]&1 != 0 {
			return fmt.Errorf("%q is not an Ethernet address of an interface", m.MAC)
		}
		m.mac = [6]byte(mac)
	}
	if m.mac == w.plan.MAC {
		return fmt.Errorf("%s is the gateway's Ethernet address", m.MAC)
	}
	for _, other := range w.members {
		if other.mac == m.mac {
			return fmt.Errorf("%s is another member's Ethernet address", m.MAC)
		}
	}
	m.MAC = net.HardwareAddr(m.mac[:]).String()
	return nil
}

// named returns the member with a name, nil if there is none. mu must be held.
func (w *Worker) named(name string) *membership {
	for _, m := range w.members {
		if strings.EqualFold(m.Name, name) {
			return m
		}
	}
	return nil
}
