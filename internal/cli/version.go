package cli

import (
	"fmt"
	"runtime/debug"
	"strings"
)

// Version is the program's own version (semver.org).
const Version = "0.1.0"

// What callers read about the program we stand in for: the version of the command line, that
// of the address plan and packets behind it, and the version of its configuration structure,
// of which 3 means --disable-dns.
const (
	contractVersion = "1.3.3"
	libslirpVersion = "4.8.0"
	configVersion   = 5
)

// compatible is that program's name; called by it, we print its version first.
const compatible = "slirp4netns"

// programVersion names the program in files that it writes.
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

// buildFacts returns the source revision and the version of the network stack, as the linker
// recorded them.
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
