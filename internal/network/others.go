package network

import (
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"

	"epiphyte/internal/names"
	"epiphyte/internal/netdef"
)

// A guest on several networks asks one resolver, and expects it to know its neighbours
// on all of them. Networks are processes that do not know each other, so each keeper
// writes its members into a file, and a worker reads those of the other networks. A
// name of another network is answered only to guests that are its members, too, as their
// ids tell.

// memberFile is what a keeper writes.
type memberFile struct {
	Network string   `json:"network"`
	Isolate bool     `json:"isolate,omitempty"`
	Members []Member `json:"members"`
}

// writeMembers replaces the file at path.
func writeMembers(path string, network netdef.Definition, members []Member) error {
	b, err := json.Marshal(memberFile{network.Name, network.Isolate, members})
	if err != nil {
		return err
	}
	return netdef.Replace(path, b)
}

// others are the members of the user's other networks. It belongs to the shard's thread.
type others struct {
	dir      string     // of the files
	own      string     // this network's
	read     []fileInfo // from which networks was made
	networks []*other
}

// fileInfo tells a file from its predecessor and successor. The time alone does not, since it
// may stand still for some milliseconds, nor the inode, which some file systems reuse.
type fileInfo struct {
	name     string
	inode    uint64
	size     int64
	modified unix.Timespec
}

// other is a network as its file describes it.
type other struct {
	name    string
	isolate bool // its members are kept from each other
	members []Member
	names   *names.Table
}

func newOthers(paths netdef.Paths, network string) *others {
	own := paths.Members(network)
	return &others{dir: filepath.Dir(own), own: filepath.Base(own)}
}

// answer answers a query of the guest with this id about its neighbours on other networks.
// ok is false if none has that name.
func (o *others) answer(id string, query []byte, stream bool) (answer []byte, ok bool) {
	for _, n := range o.of(id) {
		if answer, ok := n.names.Answer(query, stream); ok && !denies(answer) {
			return answer, true
		}
	}
	return nil, false
}

// lookup returns the addresses of a name, as answer does.
func (o *others) lookup(id, name string) []netip.Addr {
	for _, n := range o.of(id) {
		if addrs, _ := n.names.Lookup(name); len(addrs) > 0 {
			return addrs
		}
	}
	return nil
}

// at returns whom an address of one of the guest's other networks belongs to; nil: nobody.
func (o *others) at(id string, a netip.Addr) (*other, *Member) {
	if !a.IsValid() {
		return nil, nil
	}
	for _, n := range o.of(id) {
		for i := range n.members {
			if slices.Contains(n.members[i].addresses(), a) {
				return n, &n.members[i]
			}
		}
	}
	return nil, nil
}

// of returns the other networks of the guest with this id.
func (o *others) of(id string) (list []*other) {
	o.refresh()
	for _, n := range o.networks {
		if slices.ContainsFunc(n.members, func(m Member) bool { return m.ID == id }) {
			list = append(list, n)
		}
	}
	return list
}

// denies reports whether an answer says that there is no such name.
func denies(answer []byte) bool {
	return len(answer) > 3 && dnsmessage.RCode(answer[3]&0xf) == dnsmessage.RCodeNameError
}

// maxMemberFiles bounds what is read of other networks' files, in bytes: what twenty full
// networks write, and what the shard's thread reads in a tenth of a second. Guests that have
// the user's files may have put anything there.
const maxMemberFiles = 8 << 20

// refresh reads the files if any of them has changed.
func (o *others) refresh() {
	files := o.files()
	if slices.Equal(files, o.read) {
		return
	}
	o.read, o.networks = files, nil
	left := int64(maxMemberFiles)
	for _, f := range files {
		b, err := netdef.ReadRegular(filepath.Join(o.dir, f.name), left, unix.O_NOFOLLOW)
		if err != nil { // it may have just gone
			continue
		}
		left -= int64(len(b))
		if n := parseOther(b); n != nil {
			o.networks = append(o.networks, n)
		}
	}
}

// files returns the files of the other networks, by name.
func (o *others) files() (list []fileInfo) {
	entries, err := os.ReadDir(o.dir)
	if err != nil {
		return nil
	}
	for _, e := range entries {
		if e.Name() == o.own || !strings.HasSuffix(e.Name(), netdef.MembersSuffix) {
			continue
		}
		var st unix.Stat_t
		if unix.Lstat(filepath.Join(o.dir, e.Name()), &st) == nil {
			list = append(list, fileInfo{e.Name(), st.Ino, st.Size, st.Mtim})
		}
	}
	return list
}

// parseOther returns nil if b is not from a keeper.
func parseOther(b []byte) *other {
	var f memberFile
	if json.Unmarshal(b, &f) != nil {
		return nil
	}
	n := &other{name: f.Network, isolate: f.Isolate, members: f.Members, names: names.New(names.Config{Network: f.Network})}
	for _, m := range f.Members {
		n.names.Add(m.ID, m.named())
	}
	return n
}
