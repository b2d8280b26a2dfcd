package main

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// Peer kinds: how a helper is started, or which ceiling it is.
const (
	kindOurs     = "epiphyte"
	kindSlirp    = "slirp4netns"
	kindPasta    = "pasta"
	kindKit      = "rootlesskit" // its builtin port driver: published ports alone
	kindVDE      = "vde"         // vde_switch: members of a network alone
	kindBridge   = "bridge"      // the kernel's, the same
	kindVeth     = "veth"
	kindLoopback = "loopback"
)

const defaultPeers = kindOurs + "," + kindSlirp + "," + kindPasta + "," + kindKit + "," + kindVDE + "," + kindBridge + "," + kindVeth + "," + kindLoopback

// quickPeers are those that recorded floors are set against.
const quickPeers = kindOurs + "," + kindSlirp + "," + kindPasta + "," + kindBridge

// peer is one of the things measured beside each other.
type peer struct {
	Label   string   // its column: the kind, or kind-label as given
	Kind    string   // one of the kinds
	Path    string   // of the program; empty for a ceiling, or when not found
	Args    []string // added to the program's own
	Version string   // what the program says of itself
	Missing string   // why it cannot be measured at all
	Name    string   // to call the program by; empty: its path
}

func kinds() []string {
	return []string{kindOurs, kindSlirp, kindPasta, kindKit, kindVDE, kindBridge, kindVeth, kindLoopback}
}

// ceiling peers have no helper.
func (p peer) ceiling() bool {
	return p.Kind == kindVeth || p.Kind == kindLoopback || p.Kind == kindBridge
}

// network peers join guests and serve none.
func (p peer) network() bool { return p.Kind == kindVDE || p.Kind == kindBridge }

// launch is how helpers of the peer's kind are started; it has none for a
// ceiling.
func (p peer) launch() launch {
	switch p.Kind {
	case kindOurs, kindSlirp:
		return launch{hostAddr: slirpGateway, resolver: slirpResolver, start: startSlirp, startUp: startSlirp}
	case kindPasta:
		return launch{hostAddr: hostGateway, resolver: pastaResolver, start: startPasta, startUp: startPastaDaemon}
	case kindKit:
		return launch{start: startKit}
	case kindVDE:
		return launch{start: startVDE}
	}
	return launch{}
}

// takes tells whether a row means something for the peer.
func (p peer) takes(r row) bool {
	switch {
	case p.network():
		return r.neighbour
	case r.neighbour, r.policy != "":
		return p.Kind == kindOurs
	case r.face:
		return p.Kind == kindOurs || p.Kind == kindPasta
	case p.ceiling():
		return !r.helpers
	case p.Kind == kindKit:
		return r.published != nil
	}
	return true
}

// parsePeers reads "epiphyte,pasta-new=/opt/passt/pasta --flag". Programs are
// looked up by [peer.find], in the stage that will run them.
func parsePeers(list string) ([]peer, error) {
	var peers []peer
	for item := range strings.SplitSeq(list, ",") {
		if item = strings.TrimSpace(item); item == "" {
			continue
		}
		label, command, named := strings.Cut(item, "=")
		kind, _, _ := strings.Cut(label, "-")
		p := peer{Label: label, Kind: kind}
		if !slices.Contains(kinds(), kind) {
			return nil, fmt.Errorf("peer %q: unknown kind %q (known: %s)", item, kind, strings.Join(kinds(), ", "))
		}
		if named {
			words := strings.Fields(command)
			if len(words) == 0 || p.ceiling() {
				return nil, fmt.Errorf("peer %q: want KIND[-LABEL]=PATH [ARG]... of a program", item)
			}
			p.Path, p.Args = words[0], words[1:]
		}
		if slices.ContainsFunc(peers, func(q peer) bool { return q.Label == label }) {
			return nil, fmt.Errorf("peer %q is given twice", label)
		}
		peers = append(peers, p)
	}
	if len(peers) == 0 {
		return nil, fmt.Errorf("no peers in %q", list)
	}
	return peers, nil
}

// find resolves the program of a peer and asks its version; built is the helper built for this run.
func (p *peer) find(built string) {
	if p.ceiling() {
		return
	}
	if p.Path == "" && p.Kind == kindOurs {
		p.Path = built
	}
	if p.Path == "" {
		p.Path = p.Kind
		if p.Kind == kindVDE {
			p.Path = "vde_switch"
		}
	}
	path, err := exec.LookPath(p.Path)
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		p.Missing = err.Error()
		return
	}
	p.Path = path
	p.Version = version(path)
}

// version is what a program says of itself, or else what its distribution calls
// it.
func version(path string) string {
	// Some write it to the standard error output.
	out, _ := exec.Command(path, "--version").CombinedOutput()
	line, _, _ := strings.Cut(string(out), "\n")
	line = strings.TrimSpace(line)
	// Debian's pasta does not know its version.
	if line == "" || strings.Contains(line, "unknown") {
		owner, err := exec.Command("dpkg-query", "-S", path).Output()
		if pkg, _, ok := strings.Cut(string(owner), ":"); err == nil && ok {
			if v, err := exec.Command("dpkg-query", "-W", "-f", "${Package} ${Version}", pkg).Output(); err == nil {
				return string(v)
			}
		}
	}
	return line
}
