package logfile

import (
	"bytes"
	"fmt"
	"os"
	"sync"
)

// MinSize is the least limit of a file in bytes.
const MinSize = 4096

// File is a log file. Any goroutine may write to it.
type File struct {
	limit int64 // 0: not a regular file
	first int64 // bytes of the first line

	mu   sync.Mutex
	file *os.File // guarded by mu, as size
	size int64
}

// Open makes the file at path for its owner alone, or empties it, and begins it with the
// first line. It grows to limit bytes, which must be MinSize or more.
func Open(path string, limit int64, first string) (*File, error) {
	f, err := open(path, limit, first)
	if err != nil {
		return nil, fmt.Errorf("open log file: %w", err)
	}
	return f, nil
}

func open(path string, limit int64, first string) (*File, error) {
	if limit < MinSize {
		return nil, fmt.Errorf("%s: a limit of %d bytes; %d is the least", path, limit, MinSize)
	}
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	f := &File{file: file}
	info, err := file.Stat()
	if err == nil {
		if info.Mode().IsRegular() {
			f.limit = limit
		}
		_, err = f.Write([]byte(first + "\n"))
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	f.first = f.size
	return f, nil
}

// Write implements io.Writer. line ends with a newline. It truncates one that is longer than
// the whole room.
func (f *File) Write(line []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.limit == 0 {
		return f.file.Write(line)
	}
	given := len(line)
	if room := f.limit - f.first; int64(len(line)) > room {
		line = append(bytes.Clone(line[:room-1]), '\n')
	}
	if f.size+int64(len(line)) > f.limit {
		if err := f.drop(int64(len(line))); err != nil {
			return 0, err
		}
	}
	n, err := f.file.WriteAt(line, f.size)
	f.size += int64(n)
	if err != nil {
		return n, err
	}
	return given, nil
}

// drop drops the older half of the lines, or as many as make room for room bytes.
func (f *File) drop(room int64) error {
	from := max(f.first+(f.limit-f.first)/2, f.size+room-(f.limit-f.first))
	from, err := f.nextLine(from)
	if err != nil {
		return err
	}
	to, b := f.first, make([]byte, 64<<10)
	for from < f.size {
		n, err := f.file.ReadAt(b[:min(int64(len(b)), f.size-from)], from)
		if n == 0 {
			return err
		}
		if _, err := f.file.WriteAt(b[:n], to); err != nil {
			return err
		}
		from, to = from+int64(n), to+int64(n)
	}
	f.size = to
	return f.file.Truncate(to)
}

// nextLine returns the offset of the first line that begins at at or later.
func (f *File) nextLine(at int64) (int64, error) {
	at--
	b := make([]byte, 4096)
	for at < f.size {
		n, err := f.file.ReadAt(b[:min(int64(len(b)), f.size-at)], at)
		if i := bytes.IndexByte(b[:n], '\n'); i >= 0 {
			return at + int64(i) + 1, nil
		}
		if n == 0 {
			return 0, err
		}
		at += int64(n)
	}
	return f.size, nil
}

// Close closes the file.
func (f *File) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.file.Close()
}
