package cli

import (
	"fmt"
	"os"
	"os/user"
	"strconv"
	"strings"

	"epiphyte/internal/sandbox"
)

// nobody is the user that the kernel shows for unmapped ones (overflowuid).
const nobody = 65534

// setUser sets the user that serves the guest once everything is open: the one that --runas
// names or, for real root, nobody. Unlike the original we change only then, so that root may
// name namespaces, files and ports of its own. With a control socket root stays root: else
// its clients could not be told from others, nor rules be kept beside the socket.
func (p *Pasta) setUser() (err error) {
	switch {
	case p.Line.RunAs != "":
		p.User, err = parseUser(p.Line.RunAs)
		if uid := os.Geteuid(); err == nil && uid != 0 && p.User.UID != uid {
			err = fmt.Errorf("--runas %s: only root may be somebody else: leave it out", p.Line.RunAs)
		} else if uid != 0 {
			p.User = nil
		}
	case isRealRoot() && p.ConfSocket == "" && p.HTTPSocket == "":
		p.User = &sandbox.User{UID: nobody, GID: nobody}
	}
	return err
}

// isRealRoot reports whether we are root outside of all user namespaces.
func isRealRoot() bool {
	if os.Geteuid() != 0 {
		return false
	}
	ids, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && strings.Join(strings.Fields(string(ids)), " ") == "0 0 4294967295"
}

// parseUser reads UID[:GID] or LOGIN[:GROUP]. The default group is that of the user's
// account, or without an account the one with the user's number.
func parseUser(s string) (*sandbox.User, error) {
	name, group, grouped := strings.Cut(s, ":")
	u := new(sandbox.User)
	var err error
	if u.UID, err = parseID(name); err != nil {
		account, err := user.Lookup(name)
		if err != nil {
			return nil, fmt.Errorf("--runas %s: there is no user %s: name one, or a number", s, name)
		}
		u.UID, _ = strconv.Atoi(account.Uid)
	}
	if !grouped {
		u.GID = u.UID
		if account, err := user.LookupId(strconv.Itoa(u.UID)); err == nil {
			u.GID, _ = strconv.Atoi(account.Gid)
		}
		return u, nil
	}
	if u.GID, err = parseID(group); err != nil {
		g, err := user.LookupGroup(group)
		if err != nil {
			return nil, fmt.Errorf("--runas %s: there is no group %s: name one, or a number", s, group)
		}
		u.GID, _ = strconv.Atoi(g.Gid)
	}
	return u, nil
}

// parseID reads the number of a user or group. The last one means none (chown(2)).
func parseID(s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err == nil && n == 1<<32-1 {
		err = strconv.ErrRange
	}
	return int(n), err
}
