package dhcp

import (
	"encoding/hex"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"epiphyte/internal/addressing"
	"epiphyte/internal/addressing/addressingtest"
)

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestRouterAdvertisement(t *testing.T) {
	p := addressingtest.New(t)
	want := `86 00 0000 40 00 0708 00000000 00000000
		01 01 5255 0a000202
		03 04 40 c0 00015180 00003840 00000000 fd000000000000000000000000000000
		19 03 0000 00000708 fd000000000000000000000000000003`
	withMTU := want + `05 01 0000 0000fff0`
	for mtu, want := range map[int]string{0: want, 1279: want, 65520: withMTU} {
		if diff := cmp.Diff(unhex(t, want), RouterAdvertisement(Config{Plan: p, MTU: mtu}, true)); diff != "" {
			t.Errorf("MTU %d (-want +got):\n%s", mtu, diff)
		}
	}
	configured := strings.Replace(want, "03 04 40 c0", "03 04 40 80", 1)
	if diff := cmp.Diff(unhex(t, configured), RouterAdvertisement(Config{Plan: p}, false)); diff != "" {
		t.Errorf("to a guest that has an address (-want +got):\n%s", diff)
	}
	network := addressingtest.Network(t)
	members := `86 00 0000 40 00 0708 00000000 00000000
		01 01 5255 0a5a0001
		03 04 40 80 00015180 00003840 00000000 fd900000000000000000000000000000
		19 03 0000 00000708 fd900000000000000000000000000001`
	if diff := cmp.Diff(unhex(t, members), RouterAdvertisement(Config{Plan: network}, false)); diff != "" {
		t.Errorf("to members of a network (-want +got):\n%s", diff)
	}
	p, err := addressing.New(addressing.DefaultIPv4(), addressing.Plan{}.Prefix6)
	if err != nil {
		t.Fatal(err)
	}
	if got := RouterAdvertisement(Config{Plan: p, MTU: 1500}, true); got != nil {
		t.Errorf("got %x without IPv6", got)
	}
}

func TestAdvertisementDelay(t *testing.T) {
	for _, tc := range []struct {
		sent   int
		random float64
		want   time.Duration
	}{
		{1, 0.5, 16 * time.Second},
		{2, 0, 16 * time.Second},
		{3, 0, 200 * time.Second},
		{3, 0.5, 400 * time.Second},
		{1000, 0.999999, 600 * time.Second},
	} {
		if got := AdvertisementDelay(tc.sent, tc.random).Round(time.Second); got != tc.want {
			t.Errorf("delay after %d with %v is %v, want %v", tc.sent, tc.random, got, tc.want)
		}
	}
}

func TestInformationRequest(t *testing.T) {
	s, _ := newServer(t, Config{MAC: [6]byte{0x52, 0x55, 10, 0, 2, 2}})
	const (
		clientID = "0001 000a 0003 0001 020000000001"
		serverID = "0002 000a 0003 0001 52550a000202"
		resolver = "0017 0010 fd000000000000000000000000000003"
		wants    = "0006 0002 0017"
	)
	for _, tc := range []struct{ name, req, want string }{
		{"usual", "0b 010203" + clientID + wants, "07 010203" + serverID + clientID + resolver},
		{"anonymous", "0b 010203", "07 010203" + serverID + resolver},
		{"to us", "0b 010203" + serverID, "07 010203" + serverID + resolver},
		{"to another", "0b 010203 0002 000a 0003 0001 52550a000209", ""},
		{"with an IA", "0b 010203" + clientID + "0003 000c 00000001 00000000 00000000", ""},
		{"solicit", "01 010203" + clientID, ""},
		{"reply", "07 010203" + clientID, ""},
		{"cut", "0b 010203 0001 000a 0003", ""},
		{"long DUID", "0b 010203 0001 0083" + strings.Repeat("00", 131), ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := s.HandleV6(unhex(t, tc.req))
			if diff := cmp.Diff(hex.EncodeToString(unhex(t, tc.want)), hex.EncodeToString(got)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
