package namespace

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Orphans are processes that a command has left running, whose parents have ended.
type Orphans struct {
	children *os.File // ours, as the kernel lists them; nil where it does not
	others   func(pid int) bool
}

// AdoptOrphans has orphans become children of this process. It is called before any command
// is started and before a sandbox forbids it. others reports children that are no orphans.
func AdoptOrphans(others func(pid int) bool) *Orphans {
	o := &Orphans{others: others}
	if unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == nil {
		// Orphans go to the first thread (find_new_reaper).
		o.children, _ = os.Open(fmt.Sprintf("/proc/self/task/%d/children", os.Getpid()))
	}
	return o
}

// Living returns the orphans that have not ended, and reaps the others.
func (o *Orphans) Living() (pids []int) {
	if o.children == nil {
		return nil
	}
	buf := make([]byte, 16<<10) // more than any real list
	n, _ := o.children.ReadAt(buf, 0)
	for _, field := range strings.Fields(string(buf[:n])) {
		pid, err := strconv.Atoi(field)
		if err != nil || o.others(pid) {
			continue
		}
		if ended, err := unix.Wait4(pid, nil, unix.WNOHANG, nil); ended == 0 && err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// Close closes the list.
func (o *Orphans) Close() { o.children.Close() }
