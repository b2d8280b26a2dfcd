package cli

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"epiphyte/internal/pasta"
)

func TestParseRun(t *testing.T) {
	t.Setenv("SHELL", "/bin/myshell")
	base := func() Run {
		return Run{
			Options: Options{
				Command:    []string{"/bin/myshell"},
				FindSocket: true,
				Plan:       planOf(t, "10.0.2.0/24", true),
				MTU:        65520,
				ResolvConf: "/etc/resolv.conf",
				PcapSize:   defaultPcapSize,
				LogSize:    pasta.DefaultLogSize,
				LogFormat:  "text",
				Bulk:       "auto",
			},
		}
	}
	for _, tc := range []struct {
		args string
		want func(r *Run)
	}{
		{"", func(*Run) {}},
		{"curl -v --mtu", func(r *Run) { r.Command = []string{"curl", "-v", "--mtu"} }},
		{"-- -c", func(r *Run) { r.Command = []string{"-c"} }},
		{"-m1500 -- curl -- -v", func(r *Run) { r.MTU = 1500; r.Command = []string{"curl", "--", "-v"} }},
		{"--ipv6=false true", func(r *Run) { r.Plan = planOf(t, "10.0.2.0/24", false); r.Command = []string{"true"} }},
		{"-6", func(*Run) {}},
		{"--enable-ipv6", func(*Run) {}},
		{"--ipv6=false --enable-ipv6 true", func(r *Run) { r.Command = []string{"true"} }},
		{"--cidr 10.9.0.0/16 --disable-host-loopback --disable-dns", func(r *Run) {
			r.Plan = planOf(t, "10.9.0.0/16", true)
			r.DisableHostLoopback = true
			r.DisableDNS = true
		}},
		{"--no-offload=false --disable-dns=false", func(*Run) {}},
		{"--mtu=1000", func(r *Run) {
			r.MTU = 1000
			r.Plan = planOf(t, "10.0.2.0/24", false)
			r.Notices = "epiphyte run: no IPv6: an MTU of 1000 is below its least, 1280\n"
		}},
	} {
		t.Run(tc.args, func(t *testing.T) {
			want := base()
			tc.want(&want)
			got, exit := ParseRun("epiphyte", split(tc.args))
			if exit != nil {
				t.Fatalf("exit %+v", exit)
			}
			if diff := cmp.Diff(want, *got, cmp.Comparer(equalPlan), cmpopts.EquateComparable(netip.Addr{})); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestParseRun_Refused(t *testing.T) {
	for _, tc := range []struct{ args, stderr string }{
		{"--foo", "epiphyte run: unrecognized option '--foo'"},
		{"-m 0", "epiphyte run: MTU must be a positive integer (< 65522)"},
		{"--ipv6=maybe", "epiphyte run: --ipv6 must be true or false"},
		{"--cidr=x", "epiphyte run: invalid CIDR: x"},
		{"-m 60", "epiphyte run: cannot set MTU: Invalid argument (an IPv4 link carries at least 68 bytes)"},
	} {
		_, exit := ParseRun("epiphyte", split(tc.args))
		if exit == nil || exit.Code != 1 || exit.Stderr != tc.stderr {
			t.Errorf("%s: %+v", tc.args, exit)
		}
	}
}

func TestParseRun_Help(t *testing.T) {
	_, exit := ParseRun("epiphyte", []string{"--help"})
	if exit == nil || exit.Code != 0 || exit.Stderr != "" {
		t.Fatalf("exit %+v", exit)
	}
	for _, want := range []string{"epiphyte run", "--disable-host-loopback", "--ipv6", "10.0.2.2"} {
		if !strings.Contains(exit.Stdout, want) {
			t.Errorf("help lacks %q", want)
		}
	}
}

func TestParseRun_ShellWithoutSHELL(t *testing.T) {
	t.Setenv("SHELL", "")
	r, exit := ParseRun("epiphyte", nil)
	if exit != nil || !cmp.Equal(r.Command, []string{"/bin/sh"}) {
		t.Errorf("%+v, exit %+v", r, exit)
	}
}
