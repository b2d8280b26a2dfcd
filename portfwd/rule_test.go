package portfwd

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var compareAddr = cmpopts.EquateComparable(netip.Addr{})

func TestParse(t *testing.T) {
	v4, v6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	for s, want := range map[string]Rule{
		"80":                         {Proto: TCP, HostPort: 80},
		"65535":                      {Proto: TCP, HostPort: 65535},
		"80/tcp":                     {Proto: TCP, HostPort: 80},
		"53/udp":                     {Proto: UDP, HostPort: 53},
		"8080:80":                    {Proto: TCP, HostPort: 8080, GuestPort: 80},
		"8080:80/udp":                {Proto: UDP, HostPort: 8080, GuestPort: 80},
		"8000-8009":                  {Proto: TCP, HostPort: 8000, HostPortEnd: 8009},
		"8000-8009:80":               {Proto: TCP, HostPort: 8000, HostPortEnd: 8009, GuestPort: 80},
		"8000-8009:9000-9009":        {Proto: TCP, HostPort: 8000, HostPortEnd: 8009, GuestPort: 9000},
		"8000-8000:1":                {Proto: TCP, HostPort: 8000, HostPortEnd: 8000, GuestPort: 1},
		"1-65535":                    {Proto: TCP, HostPort: 1, HostPortEnd: 65535},
		"192.0.2.1:80":               {Proto: TCP, Host: v4, HostPort: 80},
		"0.0.0.0:80":                 {Proto: TCP, Host: netip.IPv4Unspecified(), HostPort: 80},
		"192.0.2.1:8000-8001:80/udp": {Proto: UDP, Host: v4, HostPort: 8000, HostPortEnd: 8001, GuestPort: 80},
		"[2001:db8::1]:80":           {Proto: TCP, Host: v6, HostPort: 80},
		"[::]:80:8080/udp":           {Proto: UDP, Host: netip.IPv6Unspecified(), HostPort: 80, GuestPort: 8080},
		"eth0:80":                    {Proto: TCP, Interface: "eth0", HostPort: 80},
		"eth0.100:80-81:8080-8081":   {Proto: TCP, Interface: "eth0.100", HostPort: 80, HostPortEnd: 81, GuestPort: 8080},
	} {
		got, err := Parse(s)
		if err != nil {
			t.Errorf("%q: %v", s, err)
			continue
		}
		if diff := cmp.Diff(want, got, compareAddr); diff != "" {
			t.Errorf("%q:\n%s", s, diff)
		}
	}
}

// Errors name the rule as it was written and the field that is wrong.
func TestParseErrors(t *testing.T) {
	for s, field := range map[string]string{
		"":                         "host_port",
		"/udp":                     "host_port",
		":":                        "host_port",
		":80":                      "host_port",
		"0":                        "host_port",
		"65536":                    "host_port",
		"-1":                       "host_port",
		"+1":                       "host_port",
		"1-":                       "host_port",
		"80-79":                    "host_port",
		"80-0":                     "host_port",
		"80-81-82":                 "host_port",
		"8 0":                      "host_port",
		"192.0.2.1:":               "host_port",
		"192.0.2.1:x":              "host_port",
		"[::1]:":                   "host_port",
		"::1:80":                   "host_port",
		"80:":                      "guest_port",
		"80:0":                     "guest_port",
		"80:x":                     "guest_port",
		"80:65536":                 "guest_port",
		"80:80:80":                 "guest_port",
		"80-89:80-88":              "guest_port",
		"80-89:80-90":              "guest_port",
		"80:80-81":                 "guest_port",
		"80-89:89-80":              "guest_port",
		"80-89:65530":              "guest_port",
		"80/sctp":                  "proto",
		"80/":                      "proto",
		"80/UDP":                   "proto",
		"80/udp/tcp":               "proto",
		"256.0.0.1:80":             "host_addr",
		"1.2.3:80":                 "host_addr",
		"[::1:80":                  "host_addr",
		"[::1]80":                  "host_addr",
		"[]:80":                    "host_addr",
		"[x]:80":                   "host_addr",
		"[::ffff:192.0.2.1]:80":    "host_addr",
		"[fe80::1%eth0]:80":        "host_addr",
		"[ff02::1]:80":             "host_addr",
		"224.0.0.1:80":             "host_addr",
		"255.255.255.255:80":       "host_addr",
		"interface-too-long-0:80":  "host_addr",
		strings.Repeat("9", 10000): "host_port",
	} {
		r, err := Parse(s)
		fe, ok := errors.AsType[*FieldError](err)
		if !ok || fe.Field != field {
			t.Errorf("%q: %+v, %v, want an error of %s", s, r, err, field)
			continue
		}
		if r != (Rule{}) {
			t.Errorf("%q: a rule beside the error: %+v", s, r)
		}
		if text := err.Error(); !strings.Contains(text, `"`+s+`"`) || strings.Contains(text, field) || strings.Contains(text, "\n") {
			t.Errorf("%q: the error does not name the rule alone: %s", s, text)
		}
	}
}

func TestValidate(t *testing.T) {
	v4, v6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	for _, c := range []struct {
		rule  Rule
		field string // empty: valid
	}{
		{Rule{HostPort: 80}, ""},
		{Rule{Proto: UDP, Host: v6, HostPort: 80, Guest: v6}, ""},
		{Rule{HostPort: 80, Guest: v4}, ""},
		{Rule{HostPort: 1, HostPortEnd: 65535}, ""},
		{Rule{HostPort: 1, HostPortEnd: 65535, GuestPort: 1}, ""},
		{Rule{HostPort: 65535, GuestPort: 65535}, ""},
		{Rule{Interface: "lo", HostPort: 80}, ""},
		{Rule{}, "host_port"},
		{Rule{Proto: "sctp", HostPort: 80}, "proto"},
		{Rule{Proto: "TCP", HostPort: 80}, "proto"},
		{Rule{Host: v4, Interface: "lo", HostPort: 80}, "host_addr"},
		{Rule{Host: netip.MustParseAddr("::ffff:192.0.2.1"), HostPort: 80}, "host_addr"},
		{Rule{Host: netip.MustParseAddr("fe80::1%1"), HostPort: 80}, "host_addr"},
		{Rule{Host: netip.MustParseAddr("239.1.2.3"), HostPort: 80}, "host_addr"},
		{Rule{HostPort: 80, HostPortEnd: 79}, "host_port"},
		{Rule{HostPort: 80, Guest: v6}, "guest_addr"},
		{Rule{Host: v6, HostPort: 80, Guest: v4}, ""},
		{Rule{HostPort: 80, Guest: netip.IPv4Unspecified()}, "guest_addr"},
		{Rule{HostPort: 80, Guest: loop4}, "guest_addr"},
		{Rule{Host: v6, HostPort: 80, Guest: netip.IPv6Loopback()}, "guest_addr"},
		{Rule{Host: v6, HostPort: 80, Guest: netip.MustParseAddr("::ffff:10.0.2.100")}, "guest_addr"},
		{Rule{Host: v6, HostPort: 80, Guest: netip.MustParseAddr("ff02::1")}, "guest_addr"},
		{Rule{HostPort: 80, HostPortEnd: 81, GuestPort: 65535}, "guest_port"},
		{Rule{HostPort: 1, HostPortEnd: 65535, GuestPort: 2}, "guest_port"},
	} {
		err := c.rule.Validate()
		if fe, ok := errors.AsType[*FieldError](err); ok && fe.Field != c.field || !ok && (err != nil || c.field != "") {
			t.Errorf("%+v: %v, want an error of %q", c.rule, err, c.field)
		}
	}
}

func TestPorts(t *testing.T) {
	for want, r := range map[int]Rule{
		1:     {HostPort: 80},
		2:     {HostPort: 80, HostPortEnd: 81},
		65535: {HostPort: 1, HostPortEnd: 65535},
	} {
		if got := r.Ports(); got != want {
			t.Errorf("%+v has %d ports, want %d", r, got, want)
		}
	}
}

// FuzzParse: what is read is valid, and is read again from what it prints.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"80", "8080:80/udp", "8000-8009:9000-9009", "192.0.2.1:80", "[2001:db8::1]:80-81:1",
		"[::]:53/udp", "eth0:80", "80:80", "80-80:80-80", "080", "[1.2.3.4]:80", "[[]:1", "a]:1", "\x00:1", "fe80::1:80",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := Parse(s)
		if err != nil {
			if _, ok := errors.AsType[*FieldError](err); !ok {
				t.Errorf("%q: %v is no *FieldError", s, err)
			}
			return
		}
		if err := r.Validate(); err != nil {
			t.Errorf("%q is read as %+v: %v", s, r, err)
		}
		again, err := Parse(r.String())
		if err != nil {
			t.Fatalf("%q prints as %q: %v", s, r, err)
		}
		if r.GuestPort == r.HostPort {
			r.GuestPort = 0 // the same
		}
		if again != r {
			t.Errorf("%q prints as %q, which is %+v, not %+v", s, r, again, r)
		}
	})
}
