package network

import (
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"epiphyte/internal/names"
	"epiphyte/internal/netdef"
)

// A guest on several networks asks one resolver, and expects it to know its neighbours
// on all of them. Networks are processes that do not know each other, so each keeper
// writes its members into a file, and a worker reads those of the other networks. A
// name of another network is answered to those guests alone that are its members, too,
// which their ids tell.

// memberFile is what a keeper writes.
type memberFile struct {
	Network string   `json:"network"`
	Members []Member `json:"members"`
}

// writeMembers replaces the file at path.
func writeMembers(path, network string, members []Member) error {
	b, err := json.Marshal(memberFile{network, members})
	if err != nil {
		return err
	}
	beside := path + ".new"
	if err := os.WriteFile(beside, b, 0o600); err != nil {
		return err
	}
	return os.Rename(beside, path)
}

// others are the members of the user's other networks. It belongs to the shard's thread.
type others struct {
	dir      string // of the files
	own      string // this network's
	modified time.Time
	networks []*other
}

// other is a network as its file had it.
type other struct {
	ids   []string
	names *names.Table
}

func newOthers(paths netdef.Paths, network string) *others {
	own := paths.Members(network)
	return &others{dir: filepath.Dir(own), own: filepath.Base(own)}
}

// answer answers a query of the guest with an id about its neighbours on other networks.
// ok is false if it has none of that name.
func (o *others) answer(id string, query []byte, from netip.AddrPort) (answer []byte, ok bool) {
	o.refresh()
	for _, n := range o.networks {
		if !slices.Contains(n.ids, id) {
			continue
		}
		if answer, ok := n.names.Answer(query, from); ok && !denies(answer) {
			return answer, true
		}
	}
	return nil, false
}

// denies reports whether an answer says that there is no such name.
func denies(answer []byte) bool {
	return len(answer) > 3 && dnsmessage.RCode(answer[3]&0xf) == dnsmessage.RCodeNameError
}

// refresh reads the files if any of them was replaced, which changes the directory.
func (o *others) refresh() {
	info, err := os.Stat(o.dir)
	if err != nil || info.ModTime().Equal(o.modified) {
		return
	}
	o.modified, o.networks = info.ModTime(), nil
	entries, err := os.ReadDir(o.dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		if e.Name() != o.own && strings.HasSuffix(e.Name(), netdef.MembersSuffix) {
			if n := readOther(filepath.Join(o.dir, e.Name())); n != nil {
				o.networks = append(o.networks, n)
			}
		}
	}
}

// readOther reads a file; nil: it cannot be read, or has just gone.
func readOther(path string) *other {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	var f memberFile
	if json.Unmarshal(b, &f) != nil {
		return nil
	}
	n := &other{names: names.New(names.Config{Network: f.Network})}
	for _, m := range f.Members {
		n.ids = append(n.ids, m.ID)
		n.names.Add(m.ID, m.named())
	}
	return n
}
