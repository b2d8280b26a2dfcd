package doctor

// State is what a finding means.
type State string

// A guest has what it needs (OK), has less of something (Limited), or cannot run at all
// (Fault).
const (
	OK      State = "ok"
	Limited State = "limited"
	Fault   State = "fault"
)

// Who can run a remedy.
const (
	Root = "root"
	You  = "you"
)

// Finding is the result of one check.
type Finding struct {
	Thing  string `json:"thing"`
	State  State  `json:"state"`
	Text   string `json:"text"`             // what is there, or what the lack means; one line
	Remedy string `json:"remedy,omitempty"` // a command for a shell
	By     string `json:"by,omitempty"`     // Root or You, who can run it
}

// Report is the results of all checks.
type Report struct {
	OK       bool      `json:"ok"` // a guest can run
	Findings []Finding `json:"findings"`
}

// Examine checks the host as the program's user. It takes some milliseconds.
func Examine() Report {
	guest := tryGuest()
	r := Report{OK: guest.err == nil}
	for _, check := range [...]func() Finding{
		userNamespaces, appArmor, tunDevice, guest.finding, guest.offloads,
		subordinateIDs, ping, lowPorts, descriptors, processes, landlock, seccomp,
		resolvConf, subnet, slirp4netns, pasta, podman, docker, rootlessKit,
	} {
		r.Findings = append(r.Findings, check())
	}
	r.explain()
	return r
}

// explain turns faults into limits if a guest has started. If none has, the other findings have
// the remedies.
func (r *Report) explain() {
	for i := range r.Findings {
		f := &r.Findings[i]
		if f.State != Fault {
			continue
		}
		if r.OK {
			f.State = Limited // the user may be exempt from the setting, as root is
			f.Text += "; yet a guest has started"
		} else if f.Thing == guestThing {
			f.Remedy, f.By = "", ""
		}
	}
}

func ok(thing, text string) Finding { return Finding{Thing: thing, State: OK, Text: text} }

func limited(thing, text, remedy, by string) Finding {
	return Finding{Thing: thing, State: Limited, Text: text, Remedy: remedy, By: by}
}

func fault(thing, text, remedy string) Finding {
	return Finding{Thing: thing, State: Fault, Text: text, Remedy: remedy, By: by(remedy)}
}

// by is Root if there is a command, else empty.
func by(remedy string) string {
	if remedy == "" {
		return ""
	}
	return Root
}
