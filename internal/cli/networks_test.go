package cli

import (
	"regexp"
	"strings"
	"testing"
)

// TestHelpNamesEveryCommand of networks, with a whole sentence.
func TestHelpNamesEveryCommand(t *testing.T) {
	_, networks := ParseNetworks("epiphyte", []string{"--help"})
	for _, c := range networksCommands() {
		if !regexp.MustCompile(`(?m)^  ` + c.name + ` (.|\n {9})*\.$`).MatchString(networks.Stdout) {
			t.Errorf("the list of networks' commands has no sentence about %s:\n%s", c.name, networks.Stdout)
		}
	}
}

func TestParseNetworks_Faults(t *testing.T) {
	for _, tc := range []struct{ args, stderr string }{
		{"list", `epiphyte network: there is no command "list"; 'epiphyte network --help' lists them`},
		{"ls web", `epiphyte network ls: "web" is one argument too many`},
		{"inspect", `epiphyte network inspect: NAME is missing`},
		{"inspect a b", `epiphyte network inspect: "b" is one argument too many`},
		{"rm", `epiphyte network rm: NAME... is missing`},
		{"connect web", `epiphyte network connect: PID|PATH is missing`},
		{"create web --subnet 10.90.7.0", `epiphyte network create: --subnet: "10.90.7.0" is not an IPv4 subnet, such as 10.90.7.0/24`},
		{"create web --subnet fd90::/64", `epiphyte network create: --subnet: "fd90::/64" is not an IPv4 subnet, such as 10.90.7.0/24`},
		{"create web --subnet6 10.90.7.0/24", `epiphyte network create: --subnet6: "10.90.7.0/24" is not an IPv6 subnet, such as fd90:0:0:7::/64`},
	} {
		_, exit := ParseNetworks("epiphyte", strings.Fields(tc.args))
		if exit == nil || exit.Code != 1 || exit.Stderr != tc.stderr || exit.Stdout != "" {
			t.Errorf("%s: %+v, want %q", tc.args, exit, tc.stderr)
		}
	}
}
