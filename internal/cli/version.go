package cli

import (
	"fmt"
	"runtime/debug"
	"strings"
)

// Version is the program's own version (semver.org).
const Version = "0.1.0"

// What callers read of the program we stand in for: the version of the command
// line and of the address plan and packets behind it, and the level of its
// configuration structure, whose 3 stands for --disable-dns.
const (
	contractVersion = "1.3.3"
	libslirpVersion = "4.8.0"
	configVersion   = 5
)

// compatible is the name under which we give that program's version first.
const compatible = "slirp4netns"

// programVersion is the program as files of its making name it.
func programVersion() string { return "epiphyte " + Version }

// versionText is the answer to --version. Callers take the second and third
// word or the first X.Y.Z of line one, and search for lines by their beginning.
func versionText(prog string) string {
	commit, gvisor := buildFacts()
	var b strings.Builder
	own := fmt.Sprintf("epiphyte version %s\n", Version)
	contract := fmt.Sprintf("slirp4netns version %s\n", contractVersion)
	if prog == compatible {
		b.WriteString(contract)
	} else {
		b.WriteString(own + contract)
	}
	fmt.Fprintf(&b, "commit: %s\n", commit)
	fmt.Fprintf(&b, "libslirp: %s (compatible)\n", libslirpVersion)
	fmt.Fprintf(&b, "SLIRP_CONFIG_VERSION_MAX: %d\n", configVersion)
	if prog == compatible {
		b.WriteString(own)
	}
	fmt.Fprintf(&b, "gvisor: %s\n", gvisor)
	return b.String()
}

// buildFacts are the source revision and the version of the network stack, as
// the linker recorded them.
func buildFacts() (commit, gvisor string) {
	commit, gvisor = "unknown", "unknown"
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return commit, gvisor
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			commit = s.Value
		}
	}
	for _, d := range info.Deps {
		if d.Path == "gvisor.dev/gvisor" {
			gvisor = d.Version
		}
	}
	return commit, gvisor
}
