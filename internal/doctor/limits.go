package doctor

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	fewDescriptors = 4096 // with fewer, a busy guest may run out
	leastThreads   = 64   // of one guest with its agent, and some of the command
)

// descriptors looks at the hard limit, to which the program raises the soft one.
func descriptors() Finding {
	const thing = "open files"
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return ok(thing, "the limit cannot be read")
	}
	text := fmt.Sprintf("at most %d, one for each connection", l.Max)
	if l.Max < fewDescriptors {
		return limited(thing, text, fmt.Sprintf("prlimit --pid %d --nofile=65536:524288", os.Getppid()), Root)
	}
	return ok(thing, text)
}

// processes checks how many more threads the user and the cgroup may have: Go's runtime ends
// the program if it is refused one.
func processes() Finding {
	const thing = "processes"
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NPROC, &l); err == nil && l.Max != unix.RLIM_INFINITY && !realRoot() {
		if left := int64(l.Max) - int64(ownThreads()); left < leastThreads {
			return limited(thing, fmt.Sprintf("this user may have %d threads, which leaves %d: a guest may end when it needs one", l.Max, max(0, left)),
				fmt.Sprintf("prlimit --pid %d --nproc=%d:%[2]d", os.Getppid(), l.Max+1024), Root)
		}
	}
	if dir, most, now := tightestCgroup(); dir != "" && most-now < leastThreads {
		return limited(thing, fmt.Sprintf("%s/pids.max is %d, with %d in use: a guest may end when it needs a thread", dir, most, now),
			fmt.Sprintf("echo %d >%s/pids.max", most+1024, dir), Root)
	}
	return ok(thing, "there is room for a guest's threads")
}

// ownThreads counts the threads of this user's processes, as the kernel does for its limit.
func ownThreads() (n int) {
	list, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range list {
		var st unix.Stat_t
		if unix.Stat(dir, &st) != nil || int(st.Uid) != os.Getuid() {
			continue
		}
		b, _ := os.ReadFile(dir + "/status")
		if _, rest, found := strings.Cut(string(b), "\nThreads:"); found {
			line, _, _ := strings.Cut(rest, "\n")
			threads, _ := strconv.Atoi(strings.TrimSpace(line))
			n += threads
		}
	}
	return n
}

// tightestCgroup returns the cgroup around this process that leaves the fewest processes; dir
// is empty if none has a limit.
func tightestCgroup() (dir string, most, now int) {
	b, _ := os.ReadFile("/proc/self/cgroup")
	for line := range strings.Lines(string(b)) {
		path, unified := strings.CutPrefix(strings.TrimSpace(line), "0::")
		for ; unified && path != "/" && path != "."; path = filepath.Dir(path) {
			here := filepath.Join("/sys/fs/cgroup", path)
			limit, err := number(here + "/pids.max")
			used, err2 := number(here + "/pids.current")
			if err == nil && err2 == nil && (dir == "" || limit-used < most-now) {
				dir, most, now = here, limit, used
			}
		}
	}
	return dir, most, now
}

func number(file string) (int, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(b))) // "max" is not a number, and no limit
}
