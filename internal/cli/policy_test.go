package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestPolicyCheck(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "build.policy")
	if err := os.WriteFile(file, []byte("# for builds\nallow github.com:443\ndeny 192.0.2.0/24\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	broken := filepath.Join(dir, "broken.policy")
	if err := os.WriteFile(broken, []byte("allow github.com:443\nallow *.com\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		args           string
		code           int
		stdout, stderr string // what is in them
	}{
		{"check FILE", 0, "2 rules", ""},
		{"check FILE tcp github.com:443", 0, "allowed by FILE:2: allow github.com:443", ""},
		{"check FILE github.com:443 at 10.0.0.1", 1, "denied: address not public, though the name is allowed by FILE:2", ""},
		{"check FILE tcp evil.example:443", 1, "denied by default", ""},
		{"check FILE icmp 192.0.2.1", 1, "denied by FILE:3: deny 192.0.2.0/24", ""},
		{"check FILE udp 8.8.8.8:53", 1, "denied: other resolver", ""},
		{"check FILE nonsense", 2, "", "a port is missing"},
		{"check BROKEN tcp github.com:443", 2, "", "BROKEN:2:9: anybody can have a name below com"},
		{"check -", 0, ": 1 rule\n", ""},
		{"check /nowhere", 2, "", "no such file"},
		{"suggest -", 2, "", "line 1 is not a record"},
		{"suggest --help", 0, "Usage", ""},
		{"check", 1, "", ": FILE is missing"},
		{"frob", 1, "", "no command"},
		{"", 0, "Usage", ""},
	} {
		args := strings.NewReplacer("FILE", file, "BROKEN", broken).Replace(tt.args)
		want := strings.NewReplacer("FILE", file, "BROKEN", broken)
		var stdout, stderr bytes.Buffer
		code := policiesMain("epiphyte", strings.Fields(args), strings.NewReader("allow a.example"), &stdout, &stderr)
		if tt.args == "check" {
			want = strings.NewReplacer()
		}
		if code != tt.code || !strings.Contains(stdout.String(), want.Replace(tt.stdout)) || !strings.Contains(stderr.String(), want.Replace(tt.stderr)) {
			t.Errorf("policy %s: %d\nstdout %sstderr %s", tt.args, code, stdout.String(), stderr.String())
		}
		if tt.code == 2 && strings.Count(stderr.String(), "\n") != 1 {
			t.Errorf("policy %s: stderr is not one line: %s", tt.args, stderr.String())
		}
	}
}

// TestPolicyCheckTellsAllFaults, in a line each, and not without bound.
func TestPolicyCheckTellsAllFaults(t *testing.T) {
	for text, want := range map[string]string{
		"allow *.com\nallow a.example\nalow\n": "epiphyte policy check: -:1:9: anybody can have a name below com: name the part that is meant, such as *.example.com\n" +
			"epiphyte policy check: -:3:1: a line begins with allow, deny, default, names, sni, flows, dns or learn, not with \"alow\"\n",
		strings.Repeat("sni\n", 27): "epiphyte policy check: -:20:4: sni is if-present or require\nepiphyte policy check: and 7 more\n",
	} {
		var stdout, stderr bytes.Buffer
		code := policiesMain("epiphyte", []string{"check", "-"}, strings.NewReader(text), &stdout, &stderr)
		if code != exitUnknown || stdout.Len() > 0 || !strings.HasSuffix(stderr.String(), want) || strings.Count(stderr.String(), "\n") > 21 {
			t.Errorf("%q: %d\nstdout %sstderr %s", text, code, stdout.String(), stderr.String())
		}
	}
}

// What runs long takes its policy from a file: stdin and an empty path are refused, in a line,
// wherever one is named.
func TestPolicyIsAFile(t *testing.T) {
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	load := func(file string) error {
		_, err := (&PolicyOptions{File: file}).load()
		return err
	}
	ofMember := func(file string) error {
		_, err := PolicyOptions{File: file}.ofMember()
		return err
	}
	command := func(args ...string) error {
		n, exit := ParseNetworks("epiphyte", args)
		if exit != nil {
			return exit
		}
		return n.command.run(n, t.Context(), &env{prog: "epiphyte"})
	}
	const stdin, empty = "read policy: - is stdin, and a policy may be read again later: give the path of a file", "read policy: the path is empty"
	for _, tt := range []struct {
		name, want string
		err        error
	}{
		{"a guest", stdin, load("-")},
		{"a member", stdin, ofMember("-")},
		{"a network", stdin, command("create", "web", "--policy", "-")},
		{"another of a member", stdin, command("policy", "web", "db", "-")},
		{"another of a member, empty", empty, command("policy", "web", "db", "")},
	} {
		if tt.err == nil || tt.err.Error() != tt.want {
			t.Errorf("%s: %v, want %q", tt.name, tt.err, tt.want)
		}
	}
	t.Setenv(policyVariable, "-")
	if err := (PolicyOptions{}).checkMember(); err == nil || err.Error() != stdin {
		t.Errorf("by the environment: %v", err)
	}
}
