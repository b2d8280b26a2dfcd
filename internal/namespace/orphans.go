package namespace

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Orphans are what a command has left running: processes whose parents have ended.
type Orphans struct {
	children *os.File // ours, as the kernel lists them; nil where it does not
	others   func(pid int) bool
}

// AdoptOrphans has them become children of this process, before any command is started and
// before a sandbox forbids it. others tells children of ours that are none.
func AdoptOrphans(others func(pid int) bool) *Orphans {
	o := &Orphans{others: others}
	if unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == nil {
		// Orphans go to the first thread (find_new_reaper).
		o.children, _ = os.Open(fmt.Sprintf("/proc/self/task/%d/children", os.Getpid()))
	}
	return o
}

// Living are those that have not ended. Those that have are reaped.
func (o *Orphans) Living() (pids []int) {
	if o.children == nil {
		return nil
	}
	buf := make([]byte, 16<<10) // more than anybody lists
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

// Close lets go of the list.
func (o *Orphans) Close() { o.children.Close() }
