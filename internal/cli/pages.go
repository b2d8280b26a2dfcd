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
// first connections.
const startedFor = time.Second

// releaseLater prepares what the function that it returns does: to take, once the start is
// over, the program's code and constants out of its memory. A start touches nearly all of
// them, and serving a quarter. They stay in the page cache, from where the kernel maps
// again what is used, 16 pages at a time.
//
// It is called before the program is confined, as it opens a file. Without /proc nothing
// is released.
func releaseLater() func() {
	fd, err := unix.Open("/proc/self/maps", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	return func() {
		if err != nil {
			return
		}
		time.AfterFunc(startedFor, func() {
			maps := os.NewFile(uintptr(fd), "maps")
			defer maps.Close()
			text, _ := io.ReadAll(maps)
			if hasLibraries(string(text)) {
				return
			}
			for line := range strings.Lines(string(text)) {
				if start, end, ok := programPages(line); ok {
					unix.Syscall(unix.SYS_MADVISE, start, end-start, unix.MADV_DONTNEED)
				}
			}
		})
	}
}

// hasLibraries reports whether /proc/PID/maps has several files. Such a program's pages that
// are read-only are not its file's: the dynamic linker has written addresses to them.
func hasLibraries(maps string) bool {
	inode := ""
	for line := range strings.Lines(maps) {
		f := strings.Fields(line)
		if len(f) < 6 || !strings.HasPrefix(f[5], "/") {
			continue
		}
		if inode != "" && inode != f[4] {
			return true
		}
		inode = f[4]
	}
	return false
}

// programPages reads a line of /proc/PID/maps. A program without libraries has one file
// mapped, its own; what may be written to is not the file's any more.
func programPages(line string) (start, end uintptr, ok bool) {
	f := strings.Fields(line) // addresses, permissions, offset, device, inode, path
	if len(f) < 6 || !strings.HasPrefix(f[5], "/") || strings.Contains(f[1], "w") {
		return 0, 0, false
	}
	from, to, _ := strings.Cut(f[0], "-")
	s, err1 := strconv.ParseUint(from, 16, 64)
	e, err2 := strconv.ParseUint(to, 16, 64)
	return uintptr(s), uintptr(e), err1 == nil && err2 == nil
}
