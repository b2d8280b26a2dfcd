package dns

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// maxServers bounds the nameservers taken from resolv.conf. glibc takes
	// three (MAXNS in resolv.h); more do no harm here, because the dead ones
	// are asked last.
	maxServers = 8

	maxResolvConf = 64 << 10

	// racyWindow is how long after a file's modification a second one may
	// leave all of its metadata equal: file systems stamp times from a clock
	// that stands still between ticks. The coarsest in use tick once a second.
	racyWindow = time.Second
)

// resolvConf is the list of nameservers in one file, read again whenever the file
// has changed. Its zero value with a path is ready to use.
type resolvConf struct {
	path    string
	servers []netip.Addr // at least one, at most maxServers; none if err is set
	err     error        // the file is missing, or cannot be read

	cpath []byte       // path for the kernel, with a NUL at its end
	stat  unix.Statx_t // of the last check
	id    fileID       // of the file read
	racy  bool         // the file was read so soon after a change that id is no proof
}

// fileID tells one state of a file from another.
type fileID struct {
	major, minor uint32
	ino, size    uint64
	mtime, ctime unix.StatxTimestamp
}

// refresh reads the file if it has changed. It reports whether servers have changed,
// or reading has begun or ceased to fail.
func (c *resolvConf) refresh() (changed bool) {
	if errno := c.check(); errno != 0 {
		return c.fail(fmt.Errorf("stat resolver configuration %s: %w", c.path, errno))
	}
	st := &c.stat
	// The id is older than what is read, so that a change in between shows as
	// another id the next time.
	id := fileID{st.Dev_major, st.Dev_minor, st.Ino, st.Size, st.Mtime, st.Ctime}
	if id == c.id && !c.racy && c.err == nil {
		return false
	}
	text, err := readResolvConf(c.path)
	if err != nil {
		return c.fail(fmt.Errorf("read resolver configuration: %w", err))
	}
	age := time.Since(time.Unix(st.Mtime.Sec, int64(st.Mtime.Nsec)))
	c.id, c.racy = id, -racyWindow < age && age < racyWindow
	servers := parseResolvConf(text)
	changed = c.err != nil || !slices.Equal(servers, c.servers)
	c.servers, c.err = servers, nil
	return changed
}

func (c *resolvConf) fail(err error) (changed bool) {
	changed = c.err == nil
	c.servers, c.err = nil, err
	return changed
}

// check fills stat. Unlike unix.Statx it allocates nothing.
func (c *resolvConf) check() unix.Errno {
	if c.cpath == nil {
		c.cpath = append([]byte(c.path), 0)
	}
	cwd := unix.AT_FDCWD
	const mask = unix.STATX_INO | unix.STATX_SIZE | unix.STATX_MTIME | unix.STATX_CTIME
	_, _, errno := unix.Syscall6(unix.SYS_STATX, uintptr(cwd), uintptr(unsafe.Pointer(&c.cpath[0])),
		unix.AT_STATX_DONT_SYNC, mask, uintptr(unsafe.Pointer(&c.stat)), 0)
	return errno
}

// readResolvConf never waits for a writer: directories, FIFOs and sockets are refused.
func readResolvConf(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if fi.Mode()&(fs.ModeDir|fs.ModeNamedPipe|fs.ModeSocket) != 0 {
		return nil, fmt.Errorf("%s: %w", path, errors.ErrUnsupported)
	}
	return io.ReadAll(io.LimitReader(f, maxResolvConf))
}

// parseResolvConf returns the nameservers of a resolv.conf(5), in order, each
// once. As in glibc the keyword begins the line, and white space, '#' or ';'
// ends the address. Lines that do not parse are skipped; without a usable one
// the nameserver is the local host.
func parseResolvConf(text []byte) []netip.Addr {
	var list []netip.Addr
	for line := range strings.Lines(string(text)) {
		value, ok := strings.CutPrefix(line, "nameserver")
		rest := strings.TrimLeft(value, " \t")
		if !ok || rest == value || len(list) == maxServers {
			continue
		}
		if i := strings.IndexAny(rest, "#; \t\r\n"); i >= 0 {
			rest = rest[:i]
		}
		addr, err := netip.ParseAddr(rest)
		if addr = addr.Unmap(); err == nil && !slices.Contains(list, addr) {
			list = append(list, addr)
		}
	}
	if len(list) == 0 {
		return []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
	}
	return list
}
