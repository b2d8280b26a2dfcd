package netdef

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"epiphyte/internal/addressing"
)

const (
	// DefaultMTU is the MTU of a network whose definition names none, in bytes: the
	// largest that is a multiple of 16. It is also the largest that one may name.
	DefaultMTU = 65520

	minMTU  = 68   // RFC 791
	minMTU6 = 1280 // RFC 8200 section 5

	// maxName is the longest label of a domain name (RFC 1035 section 2.3.4).
	maxName = 63
)

// Definition is what is known of a network before it runs.
type Definition struct {
	Name string `json:"name"`
	// Subnet and Subnet6 are chosen when the network starts if they are zero
	// (Choose). The limits are those of addressing.NewNetwork.
	Subnet  netip.Prefix `json:"subnet,omitzero"`
	Subnet6 netip.Prefix `json:"subnet6,omitzero"`
	// IPv4Only leaves IPv6 out, and Subnet6 zero.
	IPv4Only bool `json:"ipv4_only,omitempty"`
	// MTU of the members' interfaces in bytes: 1280 to 65520, from 68 with
	// IPv4Only; zero: DefaultMTU.
	MTU int `json:"mtu,omitempty"`
	// Internal networks have no way out.
	Internal bool `json:"internal,omitempty"`
	// Isolate keeps members from each other.
	Isolate bool `json:"isolate,omitempty"`
	// AllowHostLoopback lets members reach the host's loopback by the gateway.
	AllowHostLoopback bool `json:"allow_host_loopback,omitempty"`
	// NoDNS leaves members without names and resolver, as podman's
	// dns_enabled=false does.
	NoDNS bool `json:"no_dns,omitempty"`
	// Policy is the absolute path of the policy for members without one; empty: none.
	Policy string `json:"policy,omitempty"`
	// Stay keeps the network when its last member has left, for members that cannot
	// start it.
	Stay bool `json:"stay,omitempty"`
}

// Validate returns an error for a definition that no network can have, in one line that says
// what to change.
func (d *Definition) Validate() error {
	if err := ValidName(d.Name); err != nil {
		return err
	}
	if err := d.check(); err != nil {
		return fmt.Errorf("network %s: %w", d.Name, err)
	}
	return nil
}

func (d *Definition) check() error {
	least := minMTU6
	if d.IPv4Only {
		least = minMTU
	}
	switch {
	case d.IPv4Only && d.Subnet6.IsValid():
		return fmt.Errorf("the IPv6 subnet %v is for a network without IPv6: leave one of the two out", d.Subnet6)
	case d.Internal && d.AllowHostLoopback:
		return errors.New("an internal network has no way to the host's loopback: leave one of the two out")
	case d.MTU != 0 && (d.MTU < least || d.MTU > DefaultMTU):
		return fmt.Errorf("the MTU is %d: choose %d to %d bytes", d.MTU, least, DefaultMTU)
	}
	for _, p := range []netip.Prefix{d.Subnet, d.Subnet6} {
		if p.IsValid() && p != p.Masked() {
			return fmt.Errorf("the subnet %v has bits set behind its length: its network address is %v", p, p.Masked())
		}
	}
	subnet := d.Subnet
	if !subnet.IsValid() {
		subnet = pool4(0)
	}
	_, err := addressing.NewNetwork(subnet, d.Subnet6)
	return err
}

// ValidName returns an error for a name that no network can have. The names are podman's
// ([a-zA-Z0-9][a-zA-Z0-9_.-]*, where capitals are other letters), but no longer than
// 63 bytes and with no empty label, since they end domain names.
func ValidName(name string) error {
	const remedy = "use letters, digits, and inside also - _ ."
	switch {
	case name == "":
		return errors.New("a network needs a name")
	case slices.Contains(reserved(), name):
		return fmt.Errorf("%q is what container engines call a way to do without a network like these: choose another name", name)
	case len(name) > maxName:
		return fmt.Errorf("the network's name %.16q... has %d bytes: use at most %d", name, len(name), maxName)
	case strings.Trim(name, letters+"_.-") != "" || strings.IndexByte(letters, name[0]) < 0:
		return fmt.Errorf("the network's name %q cannot be: %s", name, remedy)
	case strings.Contains(name, "..") || strings.HasSuffix(name, "."):
		return fmt.Errorf("the network's name %q has a dot with nothing behind it: leave it out", name)
	}
	return nil
}

// reserved are the values of podman's and Docker's own --network that name no network there:
// who gives one means podman's, which would not accept such a name.
func reserved() []string {
	return []string{"bridge", "container", "default", "host", "none", "ns", "pasta", "private", "slirp4netns"}
}

const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
