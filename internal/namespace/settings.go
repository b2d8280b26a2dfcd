package namespace

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// setting is a sysctl(8) of the network namespace.
type setting struct {
	name, value string
	without     string // what does not work when it cannot be set
}

// settings are made before the interface exists, because it takes its own from
// "default" (Documentation/networking/ip-sysctl.rst in the kernel's source).
var settings = [...]setting{
	// Ping sockets; the caller's group is the only one that is mapped.
	{"ipv4/ping_group_range", "0 0", "ping needs privileges"},
	// Nobody else is on the link: an address need not be probed for a second
	// before it is used.
	{"ipv6/conf/default/accept_dad", "0", "the link-local IPv6 address comes late"},
}

// applySettings writes the settings under root (/proc/sys/net) and returns a
// line for each that could not be written. A kernel without the file does
// without the setting.
func applySettings(root string) (warnings []string) {
	for _, s := range settings {
		err := os.WriteFile(filepath.Join(root, s.name), []byte(s.value), 0)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			warnings = append(warnings, fmt.Sprintf("cannot set net/%s: %v; %s", s.name, errnoOf(err), s.without))
		}
	}
	return warnings
}
