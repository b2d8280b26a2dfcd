package names

import (
	"strings"
	"testing"

	mdns "github.com/miekg/dns"
)

// TestDomain compares with what another library packs into a message, which takes one byte
// too many (RFC 1035, section 2.3.4).
func TestDomain(t *testing.T) {
	label := strings.Repeat("a", 63)
	most := strings.Join([]string{label, label, label, label[:61]}, ".") // 253 bytes
	for _, s := range []string{
		"", ".", "..", "a", "a.", "a..", ".a", "a..b", "a.b.", "_tcp.example", "*.example", "a b.example", "bücher.example",
		label, label + "a", label + ".b", label + "a.b", most, most + ".", most + "a",
	} {
		_, want := mdns.IsDomainName(s)
		want = want && s != "." && len(strings.TrimSuffix(s, ".")) <= 253
		name, ok := Domain(s)
		if ok != want || ok && name != strings.TrimSuffix(s, ".") {
			t.Errorf("Domain(%q) = %q, %v, want %v", s, name, ok, want)
		}
	}
}
