package forwards

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"epiphyte/internal/netdef"
	"epiphyte/internal/pasta"
	"epiphyte/portfwd"
)

const (
	// heading is the first line of the file.
	heading = "# Ports that pesto has added. They are back when pasta is started again with the same socket.\n"
	// maxFile bounds what is read of the file, in bytes.
	maxFile = 16 << 20
)

// file is where rules are remembered; the zero value remembers nothing.
type file struct {
	path string
}

// openFile makes the directory of the file, if it does not exist. It refuses one that others
// may write to, since the file says which ports are forwarded.
func openFile(dir string) (file, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return file{}, err
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return file{}, err
	}
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return file{}, fmt.Errorf("stat %s: %w", dir, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR || int(st.Uid) != os.Geteuid() || st.Mode&0o022 != 0 {
		return file{}, fmt.Errorf("%s is not a directory that only this user may write to: remove it", dir)
	}
	return file{filepath.Join(dir, "rules")}, nil
}

// read returns the content, empty if there is none.
func (f file) read() (string, error) {
	if f.path == "" {
		return "", nil
	}
	// O_NONBLOCK: opening a FIFO must not wait.
	r, err := os.OpenFile(f.path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", nil
	case err != nil:
		return "", err
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, maxFile))
	return string(b), err
}

// write replaces the content. Empty removes the file.
func (f file) write(content string) error {
	if f.path == "" {
		return nil
	}
	if content != "" {
		return netdef.Replace(f.path, []byte(content))
	}
	if err := os.Remove(f.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// close removes the directory, if it is empty.
func (f file) close() error {
	if f.path == "" {
		return nil
	}
	err := unix.Rmdir(filepath.Dir(f.path))
	if errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// line is a line of the file, other than empty ones and comments.
type line struct {
	number   int // from 1
	forwards []pasta.Forward
	err      error // it cannot be read
}

func parse(content string) (lines []line) {
	number := 0
	for text := range strings.Lines(content) {
		number++
		text = strings.TrimSpace(text)
		if text == "" || text[0] == '#' {
			continue
		}
		l := line{number: number}
		l.forwards, l.err = pasta.ParseLine(text)
		lines = append(lines, l)
	}
	return lines
}

// maxWarnings bounds the warnings about lines of one file.
const maxWarnings = 8

// leftOut warns about lines whose ports are not forwarded.
type leftOut struct {
	path string
	log  *slog.Logger
	n    int
}

func (o *leftOut) add(l line, err error) {
	var bind *portfwd.BindError
	if errors.As(err, &bind) { // without the error that time was up
		err = bind
	}
	if o.n++; o.n <= maxWarnings {
		o.log.Warn("a port that pesto has added is left out", "file", o.path, "line", l.number, "error", err)
	}
}

func (o *leftOut) report() {
	if o.n > maxWarnings {
		o.log.Warn("more ports that pesto has added are left out", "file", o.path, "lines", o.n-maxWarnings)
	}
}

// format returns the content of a file with a table, empty for an empty one.
func format(t pasta.Table) string {
	if len(t) == 0 {
		return ""
	}
	var b strings.Builder
	b.WriteString(heading)
	for _, f := range t {
		b.WriteString(f.String() + "\n")
	}
	return b.String()
}
