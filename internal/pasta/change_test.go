package pasta

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestApply: what is cleared or deleted makes room for what is added.
func TestApply(t *testing.T) {
	for _, test := range []struct {
		clear             []string
		remove, add, want string
	}{
		{nil, "", "", "-t 80 -u 53 -T 5432"},
		{[]string{"HOST"}, "", "", "-T 5432"},
		{[]string{"splice"}, "", "", "-t 80 -u 53"},
		{[]string{"HOST", "SPLICE"}, "", "-t 80:8080", "-t 80:8080"},
		{nil, "-t 80", "-t 80:8080", "-u 53 -T 5432 -t 80:8080"},
		{nil, "-t 81", "-t 80", "-t 80 -u 53 -T 5432"},
		{nil, "-u 53", "-t 80:8080", "conflict"},
		{[]string{"TAP"}, "", "", `"TAP" has no ports to clear: HOST has the host's, SPLICE the namespace's`},
	} {
		got, err := table(t, "-t 80 -u 53 -T 5432").Apply(Change{
			Clear: test.clear, Delete: table(t, test.remove), Add: table(t, test.add),
		})
		text := got.String()
		if err != nil {
			if text = err.Error(); test.want == "conflict" && strings.Contains(text, "conflicts") {
				text = test.want
			}
		}
		if diff := cmp.Diff(test.want, text); diff != "" {
			t.Errorf("clear %v, delete %s, add %s:\n%s", test.clear, test.remove, test.add, diff)
		}
	}
}

func TestParseLine(t *testing.T) {
	for line, want := range map[string]string{
		"-t 8080:80":  "-t 8080:80",
		"  -u \t 53 ": "-u 53",
		"-T none":     "",
		"-U 53,54":    "-U 53 -U 54",
		"8080":        `"8080" is none of -t, -u, -T and -U with ports, as in -t 8080:80`,
		"-x 80":       `"-x 80" is none of -t, -u, -T and -U with ports, as in -t 8080:80`,
		"-t 0":        `-t "0": "0" is not a port, 1 to 65535, as in 8080, 8080:80 or 127.0.0.1/8080:80`,
		"-t":          `-t "": a port is missing, as in 8080, 8080:80 or 127.0.0.1/8080:80`,
	} {
		list, err := ParseLine(line)
		text := Table(list).String()
		if err != nil {
			text = err.Error()
		}
		if diff := cmp.Diff(want, text); diff != "" {
			t.Errorf("%q:\n%s", line, diff)
		}
	}
}

func TestShow(t *testing.T) {
	const want = `  HOST
    TCP [0.0.0.0]:8080  =>  8080
    TCP [::]:8080  =>  [fd00::5]:80
    TCP *:8000-8009  =>  80-89
    TCP *%eth0:81  =>  81
    UDP [127.0.0.1]:53  =>  [10.89.0.2]:53
    UDP *:1024-65535  =>  1024-65535  (those that are free)
  SPLICE
    TCP *:1-65535  =>  1-65535  (those with a server)
`
	all := table(t, "-T auto -t 0.0.0.0/8080 -t [::]/8080:fd00::5/80 -u 127.0.0.1/53:10.89.0.2/53 -t 8000-8009:80-89 -t %eth0/81 -u ~1-1023")
	if diff := cmp.Diff(want, all.Show()); diff != "" {
		t.Error(diff)
	}
	if got := (Table)(nil).Show(); got != "" {
		t.Errorf("%q", got)
	}
}
