package namespace

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/internal/subid"
)

// IDs are the users and groups inside. The zero value has the caller alone, as root.
type IDs struct {
	Users, Groups []syscall.SysProcIDMap // the caller's first; empty: the zero value's
	// Subordinate says that there are others than the caller's: newuidmap and newgidmap map
	// them.
	Subordinate bool
}

// mapPatience bounds how long newuidmap and newgidmap may take, which may ask a server for
// the user's ids.
const mapPatience = 10 * time.Second

// wantedIDs is how many ids an administrator usually gives a user.
const wantedIDs = 65536

// MapIDs returns the ids that unshare(1) maps with the options of the same names: with
// current the caller keeps its numbers, else it is root; with auto the first block of its
// subordinate users, and that of groups, are mapped as well, from 0 on, around the caller's.
// An error says what is missing, and the command that mends it.
func MapIDs(uid, gid int, current, auto bool) (IDs, error) {
	if !current && !auto {
		return IDs{}, nil
	}
	var users, groups subid.Block
	if auto {
		account := subid.Of(uid)
		if lack := account.Lack(1, wantedIDs); lack != nil {
			return IDs{}, fmt.Errorf("--map-auto: %s; root mends that by: %s", lack.Text, lack.Remedy)
		}
		users, groups = account.Users[0], account.Groups[0]
	}
	inside := func(id int) int {
		if current {
			return id
		}
		return 0
	}
	return IDs{Users: mapAround(inside(uid), uid, users), Groups: mapAround(inside(gid), gid, groups), Subordinate: auto}, nil
}

// mapAround maps an id, and a block from 0 on around it. If the id falls within the block,
// the block's last one is left out.
func mapAround(inside, outside int, block subid.Block) []syscall.SysProcIDMap {
	maps := []syscall.SysProcIDMap{{ContainerID: inside, HostID: outside, Size: 1}}
	below := min(inside, block.Count)
	for _, m := range [...]syscall.SysProcIDMap{
		{ContainerID: 0, HostID: block.First, Size: below},
		{ContainerID: inside + 1, HostID: block.First + below, Size: block.Count - below - 1},
	} {
		if m.Size > 0 {
			maps = append(maps, m)
		}
	}
	return maps
}

// root reports whether the caller is root inside.
func (ids IDs) root() bool { return len(ids.Users) == 0 || ids.Users[0].ContainerID == 0 }

// groupRange returns the first and the last group inside of a range with the caller's and as
// many others as one range can have. The kernel compares groups by their numbers outside, where
// a range must not be empty either. There the block is on one side of the caller's, so what
// is on the same side inside leads to its far end.
func (ids IDs) groupRange() (first, last int) {
	if len(ids.Groups) == 0 {
		return 0, 0
	}
	own := ids.Groups[0]
	first, last = own.ContainerID, own.ContainerID
	for _, m := range ids.Groups[1:] {
		switch inside, outside := m.ContainerID > own.ContainerID, m.HostID > own.HostID; {
		case inside && outside:
			last = m.ContainerID + m.Size - 1
		case !inside && !outside:
			first = m.ContainerID
		}
	}
	return first, last
}

// prepare sets how the child is made with these ids. A child that is not root when it
// executes itself gets ambient capabilities, since it would lose those that it needs.
func (ids IDs) prepare(attr *syscall.SysProcAttr) {
	if !ids.Subordinate {
		attr.UidMappings, attr.GidMappings = ids.Users, ids.Groups
	}
	if ids.Subordinate || !ids.root() {
		attr.AmbientCaps = []uintptr{unix.CAP_SYS_ADMIN, unix.CAP_NET_ADMIN}
	}
}

// write maps subordinate ids into the user namespace of a process.
func (ids IDs) write(pid int) error {
	if !ids.Subordinate {
		return nil
	}
	for _, m := range [...]struct {
		program string
		maps    []syscall.SysProcIDMap
	}{{subid.NewUIDMap, ids.Users}, {subid.NewGIDMap, ids.Groups}} {
		args := []string{strconv.Itoa(pid)}
		for _, r := range m.maps {
			args = append(args, strconv.Itoa(r.ContainerID), strconv.Itoa(r.HostID), strconv.Itoa(r.Size))
		}
		ctx, cancel := context.WithTimeout(context.Background(), mapPatience)
		cmd := exec.CommandContext(ctx, m.program, args...)
		cmd.WaitDelay = time.Second
		said, err := cmd.CombinedOutput()
		cancel()
		if err != nil {
			first, _, _ := bytes.Cut(bytes.TrimSpace(said), []byte("\n"))
			first = bytes.TrimPrefix(bytes.TrimSpace(first), []byte(m.program+": "))
			return fmt.Errorf("--map-auto: map ids: %s: %s (%w); it must be setuid, on a file system and in a process where that counts (no_new_privs); without --map-auto no such ids are needed",
				m.program, first, err)
		}
	}
	return nil
}

// keepNone has this thread, and so the command that it executes, inherit no capabilities.
// Root has all nevertheless, and another user none, as with unshare(1).
func keepNone() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if err := unix.Capget(&header, &sets[0]); err != nil {
		return err
	}
	sets[0].Inheritable, sets[1].Inheritable = 0, 0 // and with them the ambient ones
	return unix.Capset(&header, &sets[0])
}
