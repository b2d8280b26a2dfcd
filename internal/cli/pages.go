package cli

import (
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// startedFor is the time after which a start counts as over: most guests have made their
// first connections by then.
const startedFor = time.Second

// releaseLater returns a function that, once the start is over, unmaps the program's code and
// constants from memory. A start touches nearly all of them, and serving a quarter. They stay
// in the page cache, from where the kernel maps what is used again, 16 pages at a time.
//
// Call it before the program is confined, since it opens a file. Without /proc nothing is
// released.
func releaseLater() func() {
	fd, err := unix.Open("/proc/self/smaps", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	return func() {
		if err != nil {
			return
		}
		time.AfterFunc(startedFor, func() {
			maps := os.NewFile(uintptr(fd), "smaps")
			defer maps.Close()
			text, _ := io.ReadAll(maps)
			for _, m := range unchanged(string(text)) {
				unix.Syscall(unix.SYS_MADVISE, m.start, m.end-m.start, unix.MADV_DONTNEED)
			}
		})
	}
}

// mapping is a range of addresses.
type mapping struct{ start, end uintptr }

// unchanged reads /proc/PID/smaps and returns the mappings of files that are read-only and
// have never been written to: a dynamic linker, or a position-independent program itself, has
// put addresses into some that are read-only now.
func unchanged(smaps string) (list []mapping) {
	var m mapping
	candidate := false
	for line := range strings.Lines(smaps) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		if from, to, ok := strings.Cut(f[0], "-"); ok { // addresses, permissions, offset, device, inode, path
			s, err1 := strconv.ParseUint(from, 16, 64)
			e, err2 := strconv.ParseUint(to, 16, 64)
			m = mapping{uintptr(s), uintptr(e)}
			candidate = err1 == nil && err2 == nil && len(f) >= 6 && strings.HasPrefix(f[5], "/") && !strings.Contains(f[1], "w")
		}
		if candidate && f[0] == "Anonymous:" && f[1] == "0" {
			list = append(list, m)
		}
	}
	return list
}
