package cli

import "testing"

func TestProgramPages(t *testing.T) {
	for line, want := range map[string][2]uintptr{
		"00400000-0079d000 r-xp 00000000 fe:00 1234  /usr/bin/epiphyte\n":              {0x400000, 0x79d000},
		"0079d000-00c2e000 r--p 0039d000 fe:00 1234  /a path/epiphyte (deleted)\n":     {0x79d000, 0xc2e000},
		"00c2e000-00c56000 rw-p 0082e000 fe:00 1234  /usr/bin/epiphyte\n":              {},
		"00c56000-02c8e000 rw-p 00000000 00:00 0 \n":                                   {},
		"7fff1000-7fff2000 r-xp 00000000 00:00 0                          [vdso]\n":    {},
		"ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0         [vsyscall]\n": {},
	} {
		start, end, ok := programPages(line)
		if got := [2]uintptr{start, end}; got != want || ok != (want != [2]uintptr{}) {
			t.Errorf("%q: %x, %v", line, got, ok)
		}
	}
}

// TestHasLibraries: what is built with cgo, as tests and the race detector are, has
// pointers in pages that are read-only.
func TestHasLibraries(t *testing.T) {
	const program = "00400000-0079d000 r-xp 00000000 fe:00 12  /bin/epiphyte\n0079d000-00c2e000 r--p 0039d000 fe:00 12  /bin/epiphyte\n" +
		"7fff1000-7fff2000 r-xp 00000000 00:00 0    [vdso]\n"
	if hasLibraries(program) {
		t.Error("a program alone has libraries")
	}
	if !hasLibraries(program + "7f0000000000-7f0000001000 r--p 00000000 fe:00 13  /lib/libc.so.6\n") {
		t.Error("a library is none")
	}
}
