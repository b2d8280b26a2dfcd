package cli

import (
	"slices"
	"strings"
	"testing"

	"epiphyte/portfwd"
)

func TestExposeHost(t *testing.T) {
	want := []portfwd.Exposed{{Proto: portfwd.TCP, HostPort: 5432, GuestPort: 5432}, {Proto: portfwd.TCP, HostPort: 80, GuestPort: 8080}}
	flags := []string{"--expose-host", "5432", "--expose-host=80:8080"}
	a, exit := ParseAttach("epiphyte", append(flags, "4242", "tap0"))
	if exit != nil {
		t.Fatal(exit)
	}
	r, exit := ParseRun("epiphyte", append(flags, "true"))
	if exit != nil {
		t.Fatal(exit)
	}
	for _, got := range [][]portfwd.Exposed{a.Expose, r.Expose} {
		if !slices.Equal(got, want) {
			t.Errorf("%v, want %v", got, want)
		}
	}
}

// What cannot be had is one line with the remedy; the usage goes to stdout.
func TestExposeHost_Refused(t *testing.T) {
	for args, says := range map[string]string{
		"--expose-host 53/udp 4242 tap0":                              `parse exposed port "53/udp": "udp" is not carried out: only TCP ports are exposed`,
		"--expose-host 80:0 4242 tap0":                                `parse exposed port "80:0": "0" is not a port, 1 to 65535 (PORT[:GUESTPORT], as in 5432 or 80:8080)`,
		"--expose-host 80 --expose-host 81:80 4242 tap0":              "expose port 81:80: guest port 80 leads to port 80 already: choose another, as in 81:GUESTPORT",
		"--expose-host 80 --netns-type=tapfd 9":                       "--expose-host needs to know the guest's network namespace: name a PID or a PATH, not a descriptor or a socket",
		"--expose-host 80 --target-type=bess /tmp/epiphyte-no-socket": "--expose-host needs to know the guest's network namespace: name a PID or a PATH, not a descriptor or a socket",
	} {
		_, exit := ParseAttach("epiphyte", strings.Fields(args))
		if exit == nil || exit.Code != 1 || exit.Stderr != "epiphyte: "+says || exit.Stdout != "" {
			t.Errorf("%s: %+v, want %q", args, exit, says)
		}
	}
}
