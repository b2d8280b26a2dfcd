package dns

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"
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

// resolvConf is the list of nameservers in one file, read again whenever the
// file is another one. Its zero value with a path is ready to use.
type resolvConf struct {
	path string

	mu      sync.Mutex
	known   bool // guarded by mu, as are those below: id and servers are valid
	racy    bool // the file was read so soon after a change that id proves little
	id      fileID
	servers []netip.Addr
}

// fileID tells one state of a file from another.
type fileID struct {
	dev, ino     uint64
	size         int64
	mtime, ctime syscall.Timespec
}

func identify(fi fs.FileInfo) fileID {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return fileID{size: fi.Size()}
	}
	return fileID{dev: uint64(st.Dev), ino: st.Ino, size: st.Size, mtime: st.Mtim, ctime: st.Ctim}
}

// nameservers gives the nameservers that the file lists now: at least one, at
// most maxServers. The result is not changed later. An error means that there
// is no such file, or none that can be read.
func (c *resolvConf) nameservers() ([]netip.Addr, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fi, err := os.Stat(c.path)
	if err == nil && c.known && !c.racy && identify(fi) == c.id {
		return c.servers, nil
	}
	c.known = false
	if err != nil {
		return nil, fmt.Errorf("stat resolver configuration: %w", err)
	}
	if fi.Mode()&(fs.ModeDir|fs.ModeNamedPipe|fs.ModeSocket) != 0 {
		return nil, fmt.Errorf("read resolver configuration %s: %w", c.path, errors.ErrUnsupported)
	}
	servers, fi, err := readResolvConf(c.path)
	if err != nil {
		return nil, fmt.Errorf("read resolver configuration: %w", err)
	}
	c.known, c.id, c.servers = true, identify(fi), servers
	age := time.Since(fi.ModTime())
	c.racy = -racyWindow < age && age < racyWindow
	return servers, nil
}

func readResolvConf(path string) ([]netip.Addr, fs.FileInfo, error) {
	// Non-blocking, lest a FIFO put there between the two looks holds us.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	text, err := io.ReadAll(io.LimitReader(f, maxResolvConf))
	if err != nil {
		return nil, nil, err
	}
	return parseResolvConf(text), fi, nil
}

// parseResolvConf gives the nameservers of a resolv.conf(5), in order, each
// once. As in glibc the keyword begins the line, and white space, '#' or ';'
// ends the address. Lines that do not parse are skipped; without a usable one
// the nameserver is the local host.
func parseResolvConf(text []byte) []netip.Addr {
	var list []netip.Addr
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, maxResolvConf+1)
	for lines.Scan() && len(list) < maxServers {
		rest, ok := strings.CutPrefix(lines.Text(), "nameserver")
		if !ok || rest == "" || !strings.ContainsRune(" \t", rune(rest[0])) {
			continue
		}
		rest = strings.TrimLeft(rest, " \t")
		if i := strings.IndexAny(rest, "#; \t\r"); i >= 0 {
			rest = rest[:i]
		}
		addr, err := netip.ParseAddr(rest)
		if err != nil {
			continue
		}
		addr = addr.Unmap()
		if !contains(list, addr) {
			list = append(list, addr)
		}
	}
	if len(list) == 0 {
		return []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
	}
	return list
}

func contains(list []netip.Addr, a netip.Addr) bool {
	for _, b := range list {
		if a == b {
			return true
		}
	}
	return false
}
