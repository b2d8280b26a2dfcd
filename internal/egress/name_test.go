package egress

import (
	"strings"
	"testing"
)

// TestCanonical: what names are compared as, and what is none.
func TestCanonical(t *testing.T) {
	long := strings.Repeat("x", 63)
	for name, want := range map[string]string{
		"GitHub.com": "github.com", "github.com.": "github.com", "_dmarc.a-b.example": "_dmarc.a-b.example", "localhost": "localhost",
		"bücher.example": "xn--bcher-kva.example", "BÜCHER.example": "xn--bcher-kva.example", "XN--BCHER-KVA.example": "xn--bcher-kva.example",
		"straße.example": "xn--strae-oqa.example", "ｇithub.com": "github.com", "github。com": "github.com", "github.com。": "github.com",
		"gіthub.com":      "xn--gthub-n2e.com", // a Cyrillic letter: another name
		long + ".example": long + ".example",
		"":                "", ".": "", "..": "", "github.com..": "", ".github.com": "", "a..b": "", "a。。b": "",
		"git hub.com": "", "github.com\x00": "", "github.com\x00.evil.com": "", "github.com\n": "", "\xff.example": "", "\ufffd.example": "",
		"-a.example": "", "a-.example": "", "a,b.example": "", "a:b": "", "*.example": "", "a/b.example": "", "é" + long + ".example": "",
		long + "x.example": "", strings.Repeat(long+".", 4) + "example": "",
		"127.0.0.1": "", "127.1": "", "0x7f.1": "", "0x7f000001": "", "2130706433": "", "１２７.1": "", "1.2.3.4.": "", "a.0x": "",
		"[::1]": "", "::1": "", "fe80::1%eth0": "", "::ffff:127.0.0.1": "",
	} {
		got, err := Canonical(name)
		if (err == nil) != (want != "") || err == nil && got != want {
			t.Errorf("%q became %q, %v; want %q", name, got, err, want)
		}
	}
}
