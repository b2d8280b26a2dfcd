package doctor

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// leastIDs is what images of distributions are made for: user 65534 and all below.
const leastIDs = 65536

// subordinateIDs looks for a range of user and group ids and for the programs that map
// them. A container engine needs both; run, which maps one id, needs neither.
func subordinateIDs() Finding {
	const thing = "subordinate ids"
	if realRoot() {
		return ok(thing, "root has all ids")
	}
	for _, program := range [...]string{"newuidmap", "newgidmap"} {
		path, err := exec.LookPath(program)
		if err != nil {
			return limited(thing, "there is no "+program+": guests have one user, container engines do not start",
				"apt-get install uidmap || dnf install shadow-utils", Root)
		}
		if !privileged(path) {
			return limited(thing, path+" is neither setuid nor has capabilities: it cannot map ids", "chmod u+s "+path, Root)
		}
	}
	uid := strconv.Itoa(os.Getuid())
	name := uid
	account, err := user.LookupId(uid)
	if err == nil {
		name = account.Username
	}
	users, groups := readRanges("/etc/subuid"), readRanges("/etc/subgid")
	for _, r := range [...]ranges{users, groups} {
		n := r.of(name, uid)
		if n >= leastIDs {
			continue
		}
		first := max(users.end, groups.end)
		remedy := fmt.Sprintf("usermod --add-subuids %d-%d --add-subgids %[1]d-%[2]d %[3]s", first, first+leastIDs-1, name)
		if account == nil { // usermod wants one
			remedy = fmt.Sprintf("echo %s:%d:%d | tee -a %s %s", uid, first, leastIDs, users.file, groups.file)
		}
		return limited(thing, fmt.Sprintf("%s gives %s %d ids, and images need %d", r.file, name, n, leastIDs), remedy, Root)
	}
	return ok(thing, "there are enough, and programs that map them")
}

// realRoot reports whether we are root outside of all user namespaces.
func realRoot() bool {
	ids, err := os.ReadFile("/proc/self/uid_map")
	return os.Geteuid() == 0 && err == nil && strings.Join(strings.Fields(string(ids)), " ") == "0 0 4294967295"
}

// privileged reports whether a file is setuid or has capabilities of its own.
func privileged(path string) bool {
	info, err := os.Stat(path)
	if err != nil {
		return false
	}
	if info.Mode()&os.ModeSetuid != 0 {
		return true
	}
	n, err := unix.Getxattr(path, "security.capability", nil)
	return err == nil && n > 0
}

// ranges are what a file of subuid(5) gives out.
type ranges struct {
	file string
	end  int // behind the highest, and at least where distributions begin
	ids  map[string]int
}

func readRanges(file string) ranges {
	r := ranges{file: file, end: 100000, ids: map[string]int{}}
	b, _ := os.ReadFile(file)
	for line := range strings.Lines(string(b)) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) != 3 {
			continue
		}
		first, _ := strconv.Atoi(f[1])
		count, _ := strconv.Atoi(f[2])
		r.ids[f[0]] += count
		r.end = max(r.end, first+count)
	}
	return r
}

// of counts the ids of a user, who may be listed by name or number.
func (r ranges) of(name, uid string) int {
	if name == uid {
		return r.ids[uid]
	}
	return r.ids[name] + r.ids[uid]
}
