package subid

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// The programs that map ids.
const (
	NewUIDMap = "newuidmap"
	NewGIDMap = "newgidmap"
)

// firstEver is the first id that distributions assign.
const firstEver = 100000

// Block is a range of ids; the zero value is none.
type Block struct {
	First, Count int
}

// Account is a user with its subordinate ids.
type Account struct {
	Users, Groups []Block // in the order of the files

	name    string // of the account; its number, if it has none
	hasName bool
	uid     int
	free    int // no id from this one on is assigned
}

// Lack is what is missing, and the command for root's shell that mends it.
type Lack struct {
	Text, Remedy string
}

// Of finds what the files of this machine give to a user.
func Of(uid int) Account { return read(uid, "/etc/subuid", "/etc/subgid") }

func read(uid int, users, groups string) Account {
	a := Account{uid: uid, name: strconv.Itoa(uid), free: firstEver}
	// For a user in no file of this machine, the environment has the name.
	if account, err := user.LookupId(a.name); err == nil {
		a.name, a.hasName = account.Username, true
	} else if name := os.Getenv("USER"); name != "" && uid != 0 {
		a.name, a.hasName = name, true
	}
	a.Users, a.Groups = a.blocks(users), a.blocks(groups)
	return a
}

// blocks reads a file of subuid(5).
func (a *Account) blocks(file string) (list []Block) {
	text, _ := os.ReadFile(file)
	for line := range strings.Lines(string(text)) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) != 3 {
			continue
		}
		first, err1 := strconv.ParseUint(f[1], 10, 32)
		count, err2 := strconv.ParseUint(f[2], 10, 32)
		if err1 != nil || err2 != nil || count == 0 {
			continue
		}
		a.free = max(a.free, int(first+count))
		if f[0] == a.name || f[0] == strconv.Itoa(a.uid) {
			list = append(list, Block{int(first), int(count)})
		}
	}
	return list
}

// Lack looks for the programs and for at least least ids, of users and of groups. It is nil
// if nothing is missing. want is how many the remedy assigns.
func (a Account) Lack(least, want int) *Lack {
	for _, program := range [...]string{NewUIDMap, NewGIDMap} {
		path, err := exec.LookPath(program)
		if err != nil {
			return &Lack{"there is no " + program, "apt-get install uidmap || dnf install shadow-utils"}
		}
		if !privileged(path) {
			return &Lack{path + " is neither setuid nor has capabilities, and cannot map ids", "chmod u+s " + path}
		}
	}
	for _, f := range [...]struct {
		name   string
		blocks []Block
	}{{"/etc/subuid", a.Users}, {"/etc/subgid", a.Groups}} {
		if n := total(f.blocks); n < least {
			return &Lack{fmt.Sprintf("%s gives %s %d ids", f.name, a.name, n), a.remedy(want)}
		}
	}
	return nil
}

func (a Account) remedy(want int) string {
	if !a.hasName { // usermod wants one
		return fmt.Sprintf("echo %d:%d:%d | tee -a /etc/subuid /etc/subgid", a.uid, a.free, want)
	}
	return fmt.Sprintf("usermod --add-subuids %d-%d --add-subgids %[1]d-%[2]d %s", a.free, a.free+want-1, a.name)
}

func total(blocks []Block) (n int) {
	for b := range slices.Values(blocks) {
		n += b.Count
	}
	return n
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
