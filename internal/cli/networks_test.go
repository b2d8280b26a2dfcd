package cli

import (
	"regexp"
	"strings"
	"testing"
)

// TestHelpNamesEveryCommand, each of networks with a whole sentence.
func TestHelpNamesEveryCommand(t *testing.T) {
	_, attach := ParseAttach("epiphyte", []string{"--help"})
	words := []string{runCommand, attachCommand, networkCommand}
	for _, c := range clientCommands() {
		words = append(words, c.name)
	}
	for _, word := range words {
		if !regexp.MustCompile(`(?m)^ +epiphyte (.*\|)?` + word + `\b`).MatchString(attach.Stdout) {
			t.Errorf("the usage does not name %s:\n%s", word, attach.Stdout)
		}
	}
	_, networks := ParseNetworks("epiphyte", []string{"--help"})
	for _, c := range networksCommands() {
		if !regexp.MustCompile(`(?m)^  ` + c.name + ` .*\.$`).MatchString(networks.Stdout) {
			t.Errorf("the list of networks' commands has no sentence about %s:\n%s", c.name, networks.Stdout)
		}
	}
}

func TestParseNetworks_Faults(t *testing.T) {
	for _, tc := range []struct{ args, stderr string }{
		{"list", `epiphyte network: no command "list"`},
		{"ls web", `ls takes no argument "web"`},
		{"inspect", `inspect needs NAME`},
		{"inspect a b", `inspect takes no argument "b"`},
		{"rm", `rm needs NAME...`},
		{"connect web", `connect needs NAME PID|PATH [INTERFACE]`},
		{"create web --subnet 10.90.7.0", `--subnet: "10.90.7.0" is no IPv4 subnet, such as 10.90.7.0/24`},
		{"create web --subnet fd90::/64", `--subnet: "fd90::/64" is no IPv4 subnet, such as 10.90.7.0/24`},
		{"create web --subnet6 10.90.7.0/24", `--subnet6: "10.90.7.0/24" is no IPv6 subnet, such as fd90:0:0:7::/64`},
	} {
		_, exit := ParseNetworks("epiphyte", strings.Fields(tc.args))
		if exit == nil || exit.Code != 1 || exit.Stderr != tc.stderr || !strings.HasPrefix(exit.Stdout, "Usage: epiphyte network") {
			t.Errorf("%s: %+v, want %q", tc.args, exit, tc.stderr)
		}
	}
}
