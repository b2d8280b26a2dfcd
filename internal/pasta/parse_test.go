package pasta

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var compareAddr = cmpopts.EquateComparable(netip.Addr{})

// TestParse: each argument, and what it means as plain arguments that are of no other
// form. Both are read to the same Forwards.
func TestParse(t *testing.T) {
	for _, test := range []struct {
		spec string
		want string // separated by spaces
	}{
		{"none", ""},

		// Ports, ranges, and what they lead to.
		{"22", "22"},
		{"22-22", "22"},
		{"8080:80", "8080:80"},
		{"8000-8009", "8000-8009"},
		{"8000-8009:80-89", "8000-8009:80-89"},
		{"8080:8080", "8080"},
		{"80,443,8000-8001:90-91", "80 443 8000-8001:90-91"},
		{"1-65535", "1-65535"},

		// Where to listen.
		{"127.0.0.1/8080:80", "127.0.0.1/8080:80"},
		{"[127.0.0.1]/8080:80", "127.0.0.1/8080:80"},
		{"0.0.0.0/53", "0.0.0.0/53"},
		{"::1/8086-8086:86-86", "[::1]/8086:86"},
		{"[::1]/8086:86", "[::1]/8086:86"},
		{"::/80", "[::]/80"},
		{"2001:db8::1/80", "[2001:db8::1]/80"},
		{"::ffff:192.0.2.1/80", "192.0.2.1/80"},
		{"%eth0/80", "%eth0/80"},
		{"192.0.2.1%eth0/80", "192.0.2.1%eth0/80"},
		{"fe80::1%eth0/80", "[fe80::1]%eth0/80"},
		{"[fe80::1]%eth0/80", "[fe80::1]%eth0/80"},
		{"[fe80::1%eth0]/80", "[fe80::1]%eth0/80"},
		{"127.0.0.1/80,443:8443", "127.0.0.1/80 127.0.0.1/443:8443"},

		// Where they lead.
		{"0.0.0.0/8080:10.89.0.2/80", "0.0.0.0/8080:10.89.0.2/80"},
		{"[::]/8080:fd00::5/80", "[::]/8080:[fd00::5]/80"},
		{"[::]/8080:[fd00::5]/80", "[::]/8080:[fd00::5]/80"},
		{"0.0.0.0/8080-8082:10.89.0.2/80-82", "0.0.0.0/8080-8082:10.89.0.2/80-82"},
		{"8080:10.89.0.2/80", "8080:10.89.0.2/80"},
		{"8080:[fd00::5]/80", "8080:[fd00::5]/80"},
		{"8080:10.0.0.1/8080", "8080:10.0.0.1/8080"},
		{"22,8080:10.89.0.2/80,443", "22 8080:10.89.0.2/80 443"},
		{"%eth0/8080:10.89.0.2/80", "%eth0/8080:10.89.0.2/80"},

		// Exclusions win, wherever they stand.
		{"8000-8009,~8003-8004", "8000-8002 8005-8009"},
		{"~8003-8004,8000-8009:80-89", "8000-8002:80-82 8005-8009:85-89"},
		{"20-30,~20,~30,~24-26", "21-23 27-29"},
		{"20-30,~24-28,~25", "20-23 29-30"},
		{"80,90,~90", "80"},

		// Everything, and whatever there is.
		{"all", "all"},
		{"[::1]/all", "[::1]/all"},
		{"all:10.89.0.2", "all:10.89.0.2"},
		{"all:fd00::5", "all:[fd00::5]"},
		{"0.0.0.0/all:[fd00::5]", "0.0.0.0/all:[fd00::5]"},
		{"~1-1023", "all,~1-1023"},
		{"all,~22", "all,~22-65535 all,~1-22"},
		{"~22,~5000-6000", "all,~22-65535 all,~1-22,~5000-65535 all,~1-6000"},
		{"127.0.0.1/~22-65535", "127.0.0.1/all,~22-65535"},
		{"auto", "auto"},
		{"127.0.0.1/auto,~1-1023", "127.0.0.1/auto,~1-1023"},
		{"auto,~22", "auto,~22-65535 auto,~1-22"},
		{"auto,8080:80", "auto 8080:80"},
	} {
		got, err := HostTCP.Parse(test.spec)
		if err != nil {
			t.Error(err)
			continue
		}
		var specs []string
		for _, f := range got {
			specs = append(specs, f.Spec())
		}
		if diff := cmp.Diff(test.want, strings.Join(specs, " ")); diff != "" {
			t.Errorf("%q:\n%s", test.spec, diff)
		}
		var plain []Forward
		for _, spec := range specs {
			list, err := HostTCP.Parse(spec)
			if err != nil {
				t.Fatal(err)
			}
			plain = append(plain, list...)
		}
		if diff := cmp.Diff(got, plain, compareAddr); diff != "" {
			t.Errorf("%q, read again:\n%s", test.spec, diff)
		}
	}
}

// TestParseFields: the meaning itself, once for each field.
func TestParseFields(t *testing.T) {
	for spec, want := range map[string]Forward{
		"8080": {First: 8080, Last: 8080, ToFirst: 8080},
		"127.0.0.1%lo/8000-8009:10.89.0.2/80-89": {
			Addr: netip.MustParseAddr("127.0.0.1"), Interface: "lo", First: 8000, Last: 8009,
			To: netip.MustParseAddr("10.89.0.2"), ToFirst: 80,
		},
		"all":  {First: 1, Last: 65535, ToFirst: 1, BestEffort: true},
		"auto": {First: 1, Last: 65535, ToFirst: 1, Auto: true},
	} {
		for _, option := range Options() {
			want.Option = option
			got, err := option.Parse(spec)
			if err != nil {
				t.Error(err)
				continue
			}
			if diff := cmp.Diff([]Forward{want}, got, compareAddr); diff != "" {
				t.Errorf("%v %s:\n%s", option, spec, diff)
			}
		}
	}
}

// TestParseErrors: the option, the argument, what is wrong with it, and a right form.
func TestParseErrors(t *testing.T) {
	for spec, want := range map[string]string{
		"":                      `-u "": a port is missing, as in 8080, 8080:80 or 127.0.0.1/8080:80`,
		"80,":                   `-u "80,": a port is missing, as in 8080, 8080:80 or 127.0.0.1/8080:80`,
		"8080:":                 `-u "8080:": a port is missing, as in 8080, 8080:80 or 127.0.0.1/8080:80`,
		"0":                     `-u "0": "0" is not a port, 1 to 65535, as in 8080, 8080:80 or 127.0.0.1/8080:80`,
		"65536":                 `-u "65536": "65536" is not a port, 1 to 65535, as in 8080, 8080:80 or 127.0.0.1/8080:80`,
		"+80":                   `-u "+80": "+80" is not a port, 1 to 65535, as in 8080, 8080:80 or 127.0.0.1/8080:80`,
		"http":                  `-u "http": "http" is not a port, 1 to 65535, as in 8080, 8080:80 or 127.0.0.1/8080:80`,
		"90-80":                 `-u "90-80": the range 90-80 ends before it begins; 80-90 is one`,
		"8000-8009:80":          `-u "8000-8009:80": 8000-8009 is 10 ports and leads to 1: both sides have the same length, as in 8000-8009:80-89`,
		"80,none":               `-u "80,none": none stands alone`,
		"127.0.0.1/none":        `-u "127.0.0.1/none": none stands alone`,
		"auto:80":               `-u "auto:80": auto leads to the same port of the other side, and takes nothing behind a colon`,
		"80,~80":                `-u "80,~80": the exclusions leave no port; none is for that`,
		"~1-65535":              `-u "~1-65535": the exclusions leave no port; none is for that`,
		"/80":                   `-u "/80": an address is missing before the slash, as in 127.0.0.1/8080`,
		"localhost/80":          `-u "localhost/80": "localhost" is not an IP address, as in 127.0.0.1/8080:80 or [::1]/8080:80`,
		"127.0.0/80":            `-u "127.0.0/80": "127.0.0" is not an IP address, as in 127.0.0.1/8080:80 or [::1]/8080:80`,
		"[::1/80":               `-u "[::1/80": "[::1": the bracket is not closed, as in [::1]/8080`,
		"224.0.0.1/80":          `-u "224.0.0.1/80": nobody can listen on 224.0.0.1; every IPv4 address is 0.0.0.0/`,
		"%/80":                  `-u "%/80": "" is not a name of an interface, as in %eth0/8080`,
		"%interface-too-long/1": `-u "%interface-too-long/1": "interface-too-long" is not a name of an interface, as in %eth0/8080`,
		"80,127.0.0.1/81":       `-u "80,127.0.0.1/81": "127.0.0.1/81": the address to listen on stands once, before the first port, as in 127.0.0.1/80,443`,
		"8080:10.89.0.2":        `-u "8080:10.89.0.2": "8080:10.89.0.2": a port is missing behind the target, as in 8080:10.89.0.2/8080`,
		"8080:web/80":           `-u "8080:web/80": "web" is not an IP address, as in 127.0.0.1/8080:80 or [::1]/8080:80`,
		"8080:0.0.0.0/80":       `-u "8080:0.0.0.0/80": ports cannot lead to 0.0.0.0; name one server's address, as in 8080:10.0.0.2/80`,
		"all:80":                `-u "all:80": "80" is not an IP address, as in 127.0.0.1/8080:80 or [::1]/8080:80`,
	} {
		_, err := HostUDP.Parse(spec)
		if err == nil {
			t.Errorf("%q is read", spec)
			continue
		}
		if diff := cmp.Diff(want, err.Error()); diff != "" {
			t.Errorf("%q:\n%s", spec, diff)
		}
	}
}

// FuzzParse: of any argument comes an error of one line, or Forwards that can be written
// and read again, with ports in their order and nothing given twice.
func FuzzParse(f *testing.F) {
	for _, spec := range []string{
		"none", "auto", "all", "~22", "22", "8080:80", "8000-8009:80-89,~8003", "0.0.0.0/8080:10.89.0.2/80",
		"[::]/8080:fd00::5/80", "::1/8086-8086:86-86", "192.0.2.1%eth0/80", "[fe80::1%eth0]/all:[fd00::5]", "auto,~1-1023",
		"80,443:8443,8080:[::1]/80", "1-65535", "0", "90-80", "%/80", "[::1/80", ",", "~", "a\nb", "2001:db8::1/80:::1/80",
	} {
		for _, option := range Options() {
			f.Add(byte(option), spec)
		}
	}
	f.Fuzz(func(t *testing.T, letter byte, spec string) {
		option := Options()[int(letter)%len(Options())]
		list, err := option.Parse(spec)
		if err != nil {
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("%q: an error of several lines: %v", spec, err)
			}
			return
		}
		if table, err := (Table)(nil).Add(list...); err == nil && len(table) > 0 {
			if left := table.Delete(list...); len(left) > 0 {
				t.Errorf("%q: added and deleted, and %v is left", spec, left)
			}
		}
		for _, forward := range list {
			if forward.First == 0 || forward.Last < forward.First || int(forward.ToFirst)+int(forward.Last-forward.First) > maxPort {
				t.Errorf("%q: %+v", spec, forward)
			}
			again, err := option.Parse(forward.Spec())
			if err != nil || len(again) != 1 || again[0] != forward {
				t.Errorf("%q: %v is read as %v, %v", spec, forward, again, err)
			}
		}
	})
}
