package cli

import (
	"strings"
	"testing"

	"epiphyte/tap"
)

// TestWantsAgent: one is there for connections that leave the device, and for those ports alone
// that need sockets of the guest's namespace; it holds TCP sockets for TCP alone.
func TestWantsAgent(t *testing.T) {
	for args, want := range map[string]struct{ agent, tcp bool }{
		"":                             {false, false},
		"-u 53":                        {true, false},
		"-u 127.0.0.1/53":              {true, false},
		"-u %lo/53":                    {true, false},
		"-u 192.0.2.1/53":              {false, false},
		"-u %eth0/53":                  {false, false},
		"--no-splice -u 53":            {false, false},
		"-t 80":                        {true, true},
		"-t 192.0.2.1/80 -u 53":        {true, true},
		"-c /run/s":                    {true, true},
		"-T 80":                        {false, false},
		"-T auto":                      {true, false},
		"--publish-mode=stack -t 80":   {false, false},
		"--splice-only -u 53 -t none":  {true, false},
		"--splice-only -u none -T 80 ": {false, false},
		"--bulk=auto":                  {true, false},
		"--bulk=auto --queues=2":       {false, false},
		"--bulk=auto --splice-only":    {false, false},
	} {
		for _, option := range []string{"-t", "-u", "-T", "-U"} {
			if !strings.Contains(args, option+" ") {
				args += " " + option + " none"
			}
		}
		p, exit := ParsePasta(append([]string{"--netns=/n", "--bulk=never"}, strings.Fields(args)...))
		if exit != nil {
			t.Fatal(exit)
		}
		cfg := tap.Config{Target: tap.Target{NetNS: "/n"}, Configure: new(tap.Network), LoopbackOnly: p.Line.NoTAP}
		if got := p.wantsAgent(cfg); got != want.agent {
			t.Errorf("%s: an agent: %v", args, got)
		}
		if got := p.takesDirectPath(cfg); got != want.tcp {
			t.Errorf("%s: with TCP sockets: %v", args, got)
		}
	}
}
