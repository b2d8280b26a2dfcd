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
	without     string // what does not work without it
}

// settings are made before the interface exists, because it copies its own from "default"
// (Documentation/networking/ip-sysctl.rst in the kernel's source).
func settings(ids IDs) []setting {
	first, last := ids.groupRange()
	return []setting{
		// Ping sockets, for all groups that one range can have.
		{"ipv4/ping_group_range", fmt.Sprintf("%d %d", first, last), "ping needs privileges"},
		// Any user in the guest may use any port.
		{"ipv4/ip_unprivileged_port_start", "0", "ports below 1024 need privileges"},
		// Nobody else is on the link: an address need not be probed for a second
		// before it is used.
		{"ipv6/conf/default/accept_dad", "0", "the link-local IPv6 address comes late"},
	}
}

// applySettings writes the settings under root (/proc/sys/net) and returns a line for each
// that could not be written. It skips a setting that the kernel does not have.
func applySettings(root string, ids IDs) (warnings []string) {
	for _, s := range settings(ids) {
		err := os.WriteFile(filepath.Join(root, s.name), []byte(s.value), 0)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			warnings = append(warnings, fmt.Sprintf("cannot set net/%s: %v; %s", s.name, errnoOf(err), s.without))
		}
	}
	return warnings
}
