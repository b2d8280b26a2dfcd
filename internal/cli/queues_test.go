package cli

import (
	"strings"
	"testing"
)

func TestQueues_Accepted(t *testing.T) {
	for args, want := range map[string]int{"4242 tap0": 0, "--queues=1 4242 tap0": 1, "--queues 16 4242 tap0": 16} {
		a, exit := ParseAttach("epiphyte", strings.Fields(args))
		if exit != nil || a.Queues != want {
			t.Errorf("%s: %+v, %+v", args, a, exit)
		}
	}
	r, exit := ParseRun("epiphyte", []string{"--queues=3", "true"})
	if exit != nil || r.Queues != 3 {
		t.Errorf("run: %+v, %+v", r, exit)
	}
}

// What cannot be had is one line with the remedy.
func TestQueues_Refused(t *testing.T) {
	const number = "--queues must be a number from 1 to 16"
	const target = "--queues needs to make the TAP: name a PID or a PATH, not a descriptor or a socket"
	for args, says := range map[string]string{
		"--queues=0 4242 tap0":                                      number,
		"--queues=17 4242 tap0":                                     number,
		"--queues=many 4242 tap0":                                   number,
		"--queues=2 --netns-type=tapfd 9":                           target,
		"--queues=2 --target-type=bess /tmp/epiphyte-no-socket":     target,
		"--netns-type=tapfd --queues=16 9":                          target,
		"--target-type=bess --queues=2 -6 /tmp/epiphyte-no-socket2": target,
	} {
		_, exit := ParseAttach("epiphyte", strings.Fields(args))
		if exit == nil || exit.Code != 1 || exit.Stderr != "epiphyte: "+says || strings.Contains(exit.Stdout, "Usage:") {
			t.Errorf("%s: %+v, want %q", args, exit, says)
		}
	}
	if a, exit := ParseAttach("epiphyte", []string{"--queues=1", "--netns-type=tapfd", "9"}); exit != nil || a.Target.FD != 9 {
		t.Errorf("one queue of a descriptor: %+v", exit)
	}
}
