package doctor

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"epiphyte/internal/addressing"
	"epiphyte/internal/netdef"
)

// ping tries the socket that echo requests leave by.
func ping() Finding {
	const thing = "ping"
	for _, kind := range [...]int{unix.SOCK_DGRAM, unix.SOCK_RAW} {
		fd, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP)
		if err == nil {
			unix.Close(fd)
			return ok(thing, "guests can ping outside hosts")
		}
	}
	const setting = "net.ipv4.ping_group_range"
	return limited(thing, setting+" leaves this user's groups out: guests cannot ping outside hosts",
		"sysctl -w "+setting+`="0 2147483647"`, Root)
}

// webPort is the lowest port that most users publish.
const webPort = 80

// lowPorts checks from which port on any user may listen.
func lowPorts() Finding {
	const (
		thing = "low ports"
		name  = "net.ipv4.ip_unprivileged_port_start"
	)
	start, err := strconv.Atoi(setting(name))
	if err != nil || start <= webPort || bindsAny() {
		return ok(thing, fmt.Sprintf("port %d can be published", webPort))
	}
	return limited(thing, fmt.Sprintf("ports below %d cannot be published", start), fmt.Sprintf("sysctl -w %s=%d", name, webPort), Root)
}

// bindsAny reports whether this process may listen on any port (CAP_NET_BIND_SERVICE).
func bindsAny() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	return unix.Capget(&header, &data[0]) == nil && data[0].Effective&(1<<unix.CAP_NET_BIND_SERVICE) != 0
}

// resolvConf looks for a nameserver.
func resolvConf() Finding {
	const (
		thing  = "nameservers"
		file   = "/etc/resolv.conf"
		remedy = "echo nameserver ADDRESS >" + file
	)
	b, err := os.ReadFile(file)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return limited(thing, "there is no "+file+": guests resolve no names of outside", remedy, Root)
	case err != nil:
		return limited(thing, err.Error()+": guests resolve no names", "chmod a+r "+file, Root)
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "nameserver" {
			return ok(thing, file+" names "+f[1])
		}
	}
	return limited(thing, file+" names no nameserver, so 127.0.0.1 is asked", remedy, Root)
}

// subnet looks for a route of the host to the default subnets of guests.
func subnet() Finding {
	const thing = "subnet"
	routes, err := netdef.HostRoutes()
	if err != nil {
		return ok(thing, "the host's routes cannot be listed")
	}
	v4, v6 := addressing.DefaultIPv4(), addressing.DefaultIPv6()
	if route, found := netdef.Overlap(v4, routes); found {
		return clash(thing, v4, route, "--cidr="+free(routes))
	}
	if route, found := netdef.Overlap(v6, routes); found {
		return clash(thing, v6, route, "--cidr6=fd00:0:0:1::/64")
	}
	return ok(thing, fmt.Sprintf("%v and %v are nowhere else", v4, v6))
}

func clash(thing string, subnet, route netip.Prefix, option string) Finding {
	return limited(thing, fmt.Sprintf("the host has a route to %v, which guests cannot reach, because they have %v themselves", route, subnet),
		"epiphyte run "+option, You)
}

// free returns a subnet that no route leads to.
func free(routes []netip.Prefix) string {
	for third := range 256 {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(third), 0}), 24)
		if _, taken := netdef.Overlap(p, routes); !taken {
			return p.String()
		}
	}
	return "192.168.209.0/24"
}
