package cli

import (
	"slices"
	"testing"
)

// TestUnchanged: what is written to, or was before it became read-only, stays.
func TestUnchanged(t *testing.T) {
	const smaps = `00400000-0079d000 r-xp 00000000 fe:00 1234  /usr/bin/epiphyte
Size:               3700 kB
Rss:                2900 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me
0079d000-00c2e000 r--p 0039d000 fe:00 1234  /a path/epiphyte (deleted)
Anonymous:             0 kB
00c2e000-00c30000 r--p 0082e000 fe:00 1234  /usr/bin/epiphyte
Anonymous:             8 kB
00c30000-00c56000 rw-p 00830000 fe:00 1234  /usr/bin/epiphyte
Anonymous:             0 kB
00c56000-02c8e000 r--p 00000000 00:00 0
Anonymous:             0 kB
7fff1000-7fff2000 r-xp 00000000 00:00 0                          [vdso]
Anonymous:             0 kB
`
	want := []mapping{{0x400000, 0x79d000}, {0x79d000, 0xc2e000}}
	if got := unchanged(smaps); !slices.Equal(got, want) {
		t.Errorf("%x, want %x", got, want)
	}
}
