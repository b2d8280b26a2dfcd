package network

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// removals tells when paths of namespaces may have been removed: it watches their
// directories. It sees what is done to the directory from any mount namespace. The file
// systems of processes (/proc) report nothing.
type removals struct {
	inotify *os.File
	done    chan struct{} // closed when changed is not called any more
}

// removal is the events of a directory, or of the directory itself, that may end a path.
const removal = unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_ONLYDIR

// watchRemovals calls changed, on a goroutine of its own, whenever one of the
// directories that are added has lost something.
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
			// What was removed is seen by looking, lost events included.
			if _, err := r.inotify.Read(events[:]); err != nil {
				return
			}
			changed()
		}
	}()
	return r, nil
}

// add watches the directory of a path, once however often it is added.
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
