package pasta

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// table reads "-t 80 -u 53".
func table(t testing.TB, text string) (all Table) {
	t.Helper()
	words := strings.Fields(text)
	for i := 0; i < len(words); i += 2 {
		list, err := Option(words[i][1]).Parse(words[i+1])
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, list...)
	}
	return all
}

func (t Table) String() string {
	var all []string
	for _, f := range t {
		all = append(all, f.String())
	}
	return strings.Join(all, " ")
}

// TestAdd: what is there, what is added, and what comes of it; an error stands in its
// place.
func TestAdd(t *testing.T) {
	for _, test := range []struct{ present, add, want string }{
		{"", "-t none", ""},
		{"", "-t none -t 80", "-t 80"},
		{"", "-t 80 -u 80 -T 80 -U 80", "-t 80 -u 80 -T 80 -U 80"},
		{"-t 80", "-t none", "-t 80"},

		// What is there already.
		{"-t 80", "-t 80", "-t 80"},
		{"-t 8000-8009:80-89", "-t 8003:83", "-t 8000-8009:80-89"},
		{"-t 8003:83", "-t 8000-8009:80-89", "-t 8003:83 -t 8000-8002:80-82 -t 8004-8009:84-89"},
		{"-t auto", "-t auto", "-t auto"},
		{"-t all", "-t all,~22", "-t all"},
		{"", "-t 80 -t 80-81", "-t 80 -t 81"},

		// One port, two sockets.
		{"-t 127.0.0.1/80:8080", "-t 127.0.0.2/80:8081", "-t 127.0.0.1/80:8080 -t 127.0.0.2/80:8081"},
		{"-t 0.0.0.0/80:10.89.0.2/80", "-t [::]/80:fd00::2/80", "-t 0.0.0.0/80:10.89.0.2/80 -t [::]/80:[fd00::2]/80"},
		{"-t %eth0/80:8080", "-t %eth1/80:8081", "-t %eth0/80:8080 -t %eth1/80:8081"},

		// Kinds go around each other.
		{"-t auto", "-t 80:8080", "-t auto -t 80:8080"},
		{"-t all", "-t 80:8080 -t auto", "-t all -t 80:8080 -t auto"},

		// Conflicts.
		{"-t 80", "-t 80:8080", "-t 80:8080 conflicts with -t 80: port 80"},
		{"-t 80", "-t 80:10.89.0.2/80", "-t 80:10.89.0.2/80 conflicts with -t 80: port 80"},
		{"-t 80-90", "-t 85-95:86-96", "-t 85-95:86-96 conflicts with -t 80-90: port 85"},
		{"-t 80", "-t 127.0.0.1/80", "-t 127.0.0.1/80 conflicts with -t 80: port 80"},
		{"-t 0.0.0.0/80", "-t 127.0.0.1/80", "-t 127.0.0.1/80 conflicts with -t 0.0.0.0/80: port 80"},
		{"-t %eth0/80", "-t 80", "-t 80 conflicts with -t %eth0/80: port 80"},
		{"-t all:10.89.0.2", "-t all:10.89.0.3", "-t all:10.89.0.3 conflicts with -t all:10.89.0.2: port 1"},
		{"", "-u 81 -u 80 -u 80:81", "-u 80:81 conflicts with -u 80: port 80"},
	} {
		got, err := table(t, test.present).Add(table(t, test.add)...)
		text := got.String()
		if err != nil {
			var conflict *ConflictError
			if !errors.As(err, &conflict) || got != nil {
				t.Errorf("%T, %v", err, got)
			}
			text, _, _ = strings.Cut(err.Error(), " is forwarded already")
		}
		if diff := cmp.Diff(test.want, text); diff != "" {
			t.Errorf("%s, and %s:\n%s", test.present, test.add, diff)
		}
	}
}

func TestDelete(t *testing.T) {
	for _, test := range []struct{ present, remove, want string }{
		{"-t 80 -u 80", "-t 80", "-u 80"},
		{"-t 80", "-t none", "-t 80"},
		{"-t 8000-8009:80-89", "-t 8003:83", "-t 8000-8002:80-82 -t 8004-8009:84-89"},
		{"-t 8000 -t 8001 -t 8002", "-t 8000-8002", ""},
		{"-t auto,~22", "-t auto,~22", ""},
		{"-t all -t 80", "-t 80", "-t all"},

		// What is not there.
		{"-t 80", "-t 81", "-t 80"},
		{"-t 80", "-t 80:81", "-t 80"},
		{"-t 80", "-t 127.0.0.1/80", "-t 80"},
		{"-t 80:10.89.0.2/80", "-t 80:10.89.0.3/80", "-t 80:10.89.0.2/80"},
		{"-t auto", "-t 80", "-t auto"},
	} {
		got := table(t, test.present).Delete(table(t, test.remove)...)
		if diff := cmp.Diff(test.want, got.String()); diff != "" {
			t.Errorf("%s, without %s:\n%s", test.present, test.remove, diff)
		}
	}
}

// TestEffective: who gets which port.
func TestEffective(t *testing.T) {
	for all, want := range map[string]string{
		"-t 80 -t auto":               "-t 80 -t auto,~80-65535 -t auto,~1-80",
		"-t auto -t all,~22":          "-t all,~22-65535 -t all,~1-22 -t auto,~1-21,~23-65535",
		"-t all -t 127.0.0.1/80":      "-t 127.0.0.1/80 -t all,~80-65535 -t all,~1-80",
		"-t 127.0.0.1/all -t [::]/80": "-t [::]/80 -t 127.0.0.1/all",
		"-u auto -t 80":               "-t 80 -u auto",
	} {
		if diff := cmp.Diff(want, table(t, all).Effective().String()); diff != "" {
			t.Errorf("%s:\n%s", all, diff)
		}
	}
}

// TestBlocks: the same socket may lead elsewhere; another one needs its place.
func TestBlocks(t *testing.T) {
	for _, test := range []struct {
		from, to string
		want     bool
	}{
		{"-t 80", "-t 80:8080", false},
		{"-t 80-90", "-t 85", false},
		{"-t 80", "-u 127.0.0.1/80", false},
		{"-t 80", "-t 127.0.0.1/80", true},
		{"-t 1 -t 0.0.0.0/80-90", "-t 2 -t 85", true},
		{"-t %eth0/80", "-t %eth1/80", false},
		{"-t %eth0/80", "-t 80", true},
	} {
		if got := table(t, test.from).Blocks(table(t, test.to)); got != test.want {
			t.Errorf("%s blocks %s: %v", test.from, test.to, got)
		}
	}
}

func TestClear(t *testing.T) {
	all := table(t, "-t 80 -T 81 -u 82 -U 83")
	if got := all.Clear(false).String(); got != "-T 81 -U 83" {
		t.Error(got)
	}
	if got := all.Clear(true).String(); got != "-t 80 -u 82" {
		t.Error(got)
	}
}

// TestTablesAreValues: a table that was changed is as it was.
func TestTablesAreValues(t *testing.T) {
	all := table(t, "-t 80 -t 90-99")
	before := all.String()
	for i := range 3 {
		one, err := all.Add(table(t, fmt.Sprintf("-t %d", 1000+i))...)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := one.String(), fmt.Sprintf("%s -t %d", before, 1000+i); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	all.Delete(table(t, "-t 95")...)
	all.Effective()
	if all.String() != before {
		t.Error(all)
	}
}
