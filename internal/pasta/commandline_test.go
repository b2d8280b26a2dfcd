package pasta

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/spf13/pflag"
)

// read parses a command line in pflag's plain form, operands after --.
func read(args ...string) (*CommandLine, error) {
	c := NewCommandLine()
	fs := pflag.NewFlagSet("pasta", pflag.ContinueOnError)
	c.AddTo(fs)
	if err := fs.Parse(args); err != nil {
		var invalid *pflag.InvalidValueError
		if errors.As(err, &invalid) {
			err = invalid.Unwrap()
		}
		return nil, err
	}
	return c, c.Complete(fs.Args())
}

// closed leaves no port to its default.
var closed = []string{"--tcp-ports=none", "--udp-ports=none", "--tcp-ns=none", "--udp-ns=none"}

// TestCallers: what podman and RootlessKit say means what they mean.
func TestCallers(t *testing.T) {
	addr := netip.MustParseAddr
	for name, c := range map[string]struct {
		args string
		want func(*CommandLine)
	}{
		"podman": {
			"--config-net --dns-forward=169.254.1.1 --no-map-gw --quiet --netns=/run/user/1001/netns/netns-1 --map-guest-addr=169.254.1.2",
			func(c *CommandLine) {
				c.Configure, c.Quiet, c.NetNS = true, true, "/run/user/1001/netns/netns-1"
				c.V4.DNSForward, c.V4.MapGuest = addr("169.254.1.1"), addr("169.254.1.2")
				c.NoMapGateway = true
			},
		},
		"podman's bridge": {
			"--config-net --pid=P --conf-path=S --map-guest-addr=169.254.1.2 --map-guest-addr=fc00::2 --address=fc00::3 --gateway=fc00::1 --netns=n",
			func(c *CommandLine) {
				c.Configure, c.PIDFile, c.Control, c.NetNS = true, "P", "S", "/run/netns/n"
				c.V4.MapGuest = addr("169.254.1.2")
				c.V6.MapGuest, c.V6.Address, c.V6.Gateway = addr("fc00::2"), addr("fc00::3"), addr("fc00::1")
			},
		},
		"podman's user": {
			"--config-net --ns-ifname=foo0 --ns-mac-addr=9a:dd:31:ea:92:98 --address=192.168.0.2 --gateway=192.168.0.1 --netmask=24 --netns=/n",
			func(c *CommandLine) {
				c.Configure, c.Interface, c.NetNS = true, "foo0", "/n"
				c.MAC = []byte{0x9a, 0xdd, 0x31, 0xea, 0x92, 0x98}
				c.V4.Address, c.V4.Gateway, c.V4.Bits = addr("192.168.0.2"), addr("192.168.0.1"), 24
			},
		},
		"RootlessKit": {
			"--stderr --ns-ifname=tap0 --mtu=65520 --config-net --address=10.0.2.100 --netmask=24 --gateway=10.0.2.2 --dns-forward=10.0.2.3 --ipv4-only --host-lo-to-ns-lo 4242",
			func(c *CommandLine) {
				c.Interface, c.Configure, c.PID, c.HostLoToGuestLo = "tap0", true, 4242, true
				c.V4 = Family{Address: addr("10.0.2.100"), Bits: 24, Gateway: addr("10.0.2.2"), DNSForward: addr("10.0.2.3")}
				c.V6.Off = true
			},
		},
		"a command": {
			"--mtu=1500 --netmask=255.255.128.0 --stats=2 --dns=1.1.1.1 --search=none -- ls -l",
			func(c *CommandLine) {
				c.MTU, c.V4.Bits, c.Stats = 1500, 17, 2*time.Second
				c.DNS, c.DHCPDNS, c.NoSearch = []netip.Addr{addr("1.1.1.1")}, true, true
				c.Command = []string{"ls", "-l"}
			},
		},
		"no DHCP": {"--dns=1.1.1.1 --search=example.com --no-dhcp-dns --no-dhcp-search", func(c *CommandLine) {
			c.DNS, c.Search = []netip.Addr{addr("1.1.1.1")}, []string{"example.com"}
		}},
		"a shell":      {"--address=2001:db8::2/56", func(c *CommandLine) { c.V6.Address, c.V6.Bits = addr("2001:db8::2"), 56 }},
		"one family":   {"--ipv4-only --ipv6-only", func(c *CommandLine) { c.V4.Off = true }},
		"the other":    {"--ipv6-only --ipv4-only", func(c *CommandLine) { c.V6.Off = true }},
		"no map":       {"--map-host-loopback=none --map-guest-addr=none", func(c *CommandLine) { c.NoMapGateway = true }},
		"path of proc": {"--netns=/proc/7/ns/net --userns=/proc/7/ns/user", func(c *CommandLine) { c.NetNS, c.UserNS = "/proc/7/ns/net", "/proc/7/ns/user" }},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := read(append(closed[:4:4], strings.Fields(c.args)...)...)
			if err != nil {
				t.Fatal(err)
			}
			want := NewCommandLine()
			c.want(want)
			got.given = nil
			if diff := cmp.Diff(want, got, cmp.AllowUnexported(Ports{}), cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmpopts.EquateEmpty()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestPortsNotNamedAreAuto, each option by itself.
func TestPortsNotNamedAreAuto(t *testing.T) {
	c, err := read("--tcp-ports=none", "--udp-ports=53:5353")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range c.Forwards {
		got = append(got, f.String())
	}
	want := []string{"-u 53:5353", "-T auto", "-U auto"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	c, err = read("--no-tcp", "--udp-ports=none")
	if err != nil || len(c.Forwards) != 1 || c.Forwards[0].String() != "-U auto" {
		t.Errorf("without TCP: %v, %v", c, err)
	}
}

// TestFaults: each in one line that quotes what is wrong.
func TestFaults(t *testing.T) {
	long := strings.Repeat("x", 64) + ".example"
	for args, says := range map[string]string{
		"--mtu=67":                            "--mtu 67:",
		"--mtu=65522":                         "--mtu 65522:",
		"--mtu=x":                             "--mtu x:",
		"--address=10.0.0.300":                "--address 10.0.0.300:",
		"--address=0.0.0.0":                   "--address 0.0.0.0:",
		"--address=10.0.0.1/33":               "1 to 32 bits",
		"--address=10.0.0.1/24 --netmask=24":  "said twice",
		"--netmask=24 --address=10.0.0.1/24":  "said twice",
		"--netmask=255.0.255.0":               "--netmask 255.0.255.0:",
		"--gateway=none":                      "--gateway none:",
		"--dns-forward=::":                    "--dns-forward :::",
		"--mac-addr=01:00:00:00:00:00":        "--mac-addr 01:",
		"--ns-mac-addr=00:00:00:00:00:00":     "--ns-mac-addr 00:",
		"--ns-ifname=0123456789abcdef":        `--ns-ifname "0123456789abcdef":`,
		"--log-size=1":                        "--log-size 1:",
		"--stats=0":                           "--stats 0:",
		"--tcp-ports=0":                       `-t "0":`,
		"--tcp-ports=80:81 --tcp-ports=80:82": "-t 80:82 conflicts with -t 80:81",
		"--netns=":                            "--netns is empty",
		"--pid=":                              "--pid is empty",
		"--netns=/n 42":                       `"42"`,
		"--userns=/u --netns=/n --netns-only": "contradict",
		"--userns=/u -- true":                 "--userns",
		"0":                                   "not the number of a process",
		"99999999999":                         "not the number of a process",
		"--dns=1.1.1.1 --dns=none":            "contradict",
		"--no-tcp --tcp-ports=80":             "--no-tcp and -t 80 contradict",
		"--no-udp --udp-ns=auto":              "--no-udp and -U auto contradict",
		"--no-splice --host-lo-to-ns-lo":      "contradict",
		"--no-splice --splice-only":           "leave no way",
		"--search=none --search=a.example":    "contradict",
		"--map-guest-addr=1.2.3.4 --map-host-loopback=1.2.3.4": "both 1.2.3.4",
		"--search=" + long: "63 between",
		"--fqdn=" + long:   "63 between",
	} {
		_, err := read(strings.Fields(args)...)
		if err == nil || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, want one line with %q", args, err, says)
		}
	}
}
