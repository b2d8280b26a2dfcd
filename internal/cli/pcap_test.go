package cli

import (
	"strings"
	"testing"
)

// TestSizes: what is read is written again as the same size.
func TestSizes(t *testing.T) {
	for text, want := range map[string]int64{
		"0": 0, "1": 1, "1023": 1023, "1k": 1 << 10, "100K": 100 << 10, "1M": 1 << 20, "3m": 3 << 20, "2G": 2 << 30, "8589934591G": 8589934591 << 30,
	} {
		var got int64
		if err := sizeValue("size", &got, 0).Set(text); err != nil || got != want {
			t.Errorf("%s: %d, %v", text, got, err)
		}
		var again int64
		if err := sizeValue("size", &again, 0).Set(sizeText(got)); err != nil || again != got {
			t.Errorf("%s is written as %s", text, sizeText(got))
		}
	}
	for _, text := range []string{"", "k", "-1", "1kB", "1T", "1.5M", "8589934592G", "99999999999999999999", " 1"} {
		if err := sizeValue("size", new(int64), 0).Set(text); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}

// TestPcapIsTheNetworksToOffer: a member's own program sees no frames.
func TestPcapIsTheNetworksToOffer(t *testing.T) {
	_, exit := ParseRun("epiphyte", []string{"--network", "web", "--pcap", "x", "true"})
	if exit == nil || !strings.Contains(exit.Stderr, "--pcap does not go with --network") {
		t.Errorf("%+v", exit)
	}
}

// TestPcapFlags of the client.
func TestPcapFlags(t *testing.T) {
	for _, args := range [][]string{{"--snaplen", "-1"}, {"--snaplen", "262145"}, {"--snaplen", "x"}, {"--json"}} {
		if _, exit := ParseClient("epiphyte", "pcap", append(args, "--http-socket", "h")); exit == nil || exit.Code != 1 {
			t.Errorf("%q is taken", args)
		}
	}
	c, exit := ParseClient("epiphyte", "pcap", []string{"--snaplen", "96", "--http-socket", "h"})
	if exit != nil || c.snaplen != 96 {
		t.Errorf("%+v, %+v", c, exit)
	}
}
