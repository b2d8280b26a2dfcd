package network

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// removals tells when paths of namespaces may have been removed, by watching their
// directories. It sees changes made from any mount namespace, but none in /proc, which
// reports no events.
type removals struct {
	inotify *os.File
	done    chan struct{} // closed after the last call of changed
}

// removal is the events in a directory, or of the directory itself, that may end a path.
const removal = unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_ONLYDIR

// watchRemovals calls changed, on a goroutine of its own, whenever one of the added
// directories has lost an entry.
func watchRemovals(changed func()) (*removals, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watch directories: %w", err)
	}
	r := &removals{inotify: os.NewFile(uintptr(fd), "inotify"), done: make(chan struct{})}
	go func() {
		defer close(r.done)
		var events [16 * (unix.SizeofInotifyEvent + unix.NAME_MAX + 1)]byte
		for {
			// The events are not parsed: changed looks for itself, so lost ones do no harm.
			if _, err := r.inotify.Read(events[:]); err != nil {
				return
			}
			changed()
		}
	}()
	return r, nil
}

// add watches the directory of a path. Adding it again changes nothing.
func (r *removals) add(path string) error {
	raw, err := r.inotify.SyscallConn()
	if err != nil {
		return err
	}
	dir := filepath.Dir(path)
	ctlErr := raw.Control(func(fd uintptr) { _, err = unix.InotifyAddWatch(int(fd), dir, removal) })
	if err = errors.Join(ctlErr, err); err != nil {
		return fmt.Errorf("watch directory %s: %w", dir, err)
	}
	return nil
}

// close ends the watching. changed is not running when it returns.
func (r *removals) close() {
	r.inotify.Close()
	<-r.done
}

// isRemoved reports whether nothing is at a path.
func isRemoved(path string) bool {
	_, err := os.Lstat(path)
	return errors.Is(err, fs.ErrNotExist)
}
