package pasta

import (
	"fmt"
	"strings"
)

// Sides of a Table, as pesto --clear and requests name them: ports of the host, and of the
// namespace's loopback.
const (
	HostSide   = "HOST"
	SpliceSide = "SPLICE"
)

// Change changes a Table, all of it or nothing: first ports are cleared, then deleted, then
// added.
type Change struct {
	Clear  []string // sides
	Delete []Forward
	Add    []Forward
}

// Apply returns the table after the change. It is an error if a side does not exist; other
// errors are Add's.
func (t Table) Apply(c Change) (Table, error) {
	for _, side := range c.Clear {
		out, err := parseSide(side)
		if err != nil {
			return nil, err
		}
		t = t.Clear(out)
	}
	return t.Delete(c.Delete...).Add(c.Add...)
}

func parseSide(s string) (out bool, err error) {
	switch strings.ToUpper(s) {
	case HostSide:
		return false, nil
	case SpliceSide:
		return true, nil
	}
	return false, fmt.Errorf("%q has no ports to clear: %s has the host's, %s the namespace's", s, HostSide, SpliceSide)
}

// ParseLine reads an option and its argument, as Forward's String writes them, with any white
// space around and between them.
func ParseLine(line string) ([]Forward, error) {
	name, spec, _ := strings.Cut(strings.TrimSpace(line), " ")
	for _, o := range Options() {
		if name == o.String() {
			return o.Parse(strings.TrimSpace(spec))
		}
	}
	return nil, fmt.Errorf("%q is none of -t, -u, -T and -U with ports, as in -t 8080:80", line)
}

// Show prints the table for people: a line for each Forward, in a block for each side.
func (t Table) Show() string {
	var b strings.Builder
	for _, side := range [...]string{HostSide, SpliceSide} {
		head := "  " + side + "\n"
		for _, o := range Options() {
			for _, f := range t {
				if f.Option == o && o.Out() == (side == SpliceSide) {
					b.WriteString(head)
					head = ""
					b.WriteString("    " + f.show() + "\n")
				}
			}
		}
	}
	return b.String()
}

func (f Forward) show() string {
	var b strings.Builder
	b.WriteString(strings.ToUpper(f.Option.Proto()) + " ")
	if f.Addr.IsValid() {
		b.WriteString("[" + f.Addr.String() + "]")
	} else {
		b.WriteByte('*')
	}
	if f.Interface != "" {
		b.WriteString("%" + f.Interface)
	}
	b.WriteByte(':')
	writeRange(&b, f.First, f.Last)
	b.WriteString("  =>  ")
	if f.To.IsValid() {
		b.WriteString("[" + f.To.String() + "]:")
	}
	writeRange(&b, f.ToFirst, f.ToLast())
	switch {
	case f.Auto:
		b.WriteString("  (those with a server)")
	case f.BestEffort:
		b.WriteString("  (those that are free)")
	}
	return b.String()
}
