package egress

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// Bounds of a policy. They are far beyond what people write, and keep another kind of file
// from being taken for a policy.
const (
	MaxText  = 1 << 20 // bytes of all sources together
	MaxRules = 10_000
	maxLine  = 1024 // bytes
)

// MaxErrors bounds the faults that an Errors lists.
const MaxErrors = 20

// Source is a text of statements and its name in errors and records: a file, or the option
// that gave it.
type Source struct {
	File string
	Text string
}

// Error is a statement that cannot be read.
type Error struct {
	File         string
	Line, Column int // from 1; columns are counted in bytes
	Msg          string
}

// Error implements error: file:line:column: message.
func (e *Error) Error() string {
	return fmt.Sprintf("%s:%d:%d: %s", e.File, e.Line, e.Column, e.Msg)
}

// Errors are the statements of a policy that cannot be read, in the order of the text.
type Errors struct {
	List []error // each an *Error, from 1 to MaxErrors of them
	More int     // not listed
}

func (e *Errors) add(err error) {
	if len(e.List) == MaxErrors {
		e.More++
		return
	}
	e.List = append(e.List, err)
}

// Error implements error, in one line: the first fault, and how many more there are.
func (e *Errors) Error() string {
	text := e.List[0].Error()
	if more := len(e.List) - 1 + e.More; more > 0 {
		text += fmt.Sprintf(" (and %d more)", more)
	}
	return text
}

// Unwrap returns the first fault.
func (e *Errors) Unwrap() error { return e.List[0] }

// Parse compiles statements. The error is an *Errors with all that cannot be read.
func Parse(sources ...Source) (*Policy, error) {
	p := &reader{policy: new(Policy)}
	size := 0
	for _, s := range sources {
		p.file, p.line = s.File, 1
		if size += len(s.Text); size > MaxText {
			p.faults.add(p.errorf(1, "a policy has %d bytes at most", MaxText))
			break
		}
		p.text(s.Text)
	}
	if len(p.faults.List) > 0 {
		return nil, &p.faults
	}
	p.defaults()
	p.policy.out.compile()
	p.policy.in.compile()
	return p.policy, nil
}

// text reads the statements of one source.
func (p *reader) text(text string) {
	p.line = 0
	for line := range strings.SplitSeq(text, "\n") {
		p.line++
		if err := p.statement(strings.TrimSuffix(line, "\r")); err != nil {
			p.faults.add(err)
		}
	}
}

// reader is the state of Parse.
type reader struct {
	policy *Policy
	file   string
	line   int
	words  []word          // left of the line
	end    int             // column after the last word
	said   map[string]said // settings so far
	full   bool            // there was a rule too many
	faults Errors
}

// said is a setting, and the place where it was made.
type said struct {
	value string
	where string
}

// word is a part of a line without spaces.
type word struct {
	text   string
	column int
}

func (p *reader) errorf(column int, format string, args ...any) error {
	return &Error{p.file, p.line, column, fmt.Sprintf(format, args...)}
}

// statement reads one line.
func (p *reader) statement(line string) error {
	if len(line) > maxLine {
		return p.errorf(maxLine, "a line has %d bytes at most", maxLine)
	}
	if i := strings.IndexFunc(line, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f || r == utf8.RuneError }); i >= 0 {
		return p.errorf(i+1, "this is not text: %q", line[i])
	}
	p.split(line)
	if len(p.words) == 0 {
		return nil
	}
	text := strings.Join(strings.Fields(line[p.words[0].column-1:p.end-1]), " ")
	w, _ := p.next()
	switch w.text {
	case "allow", "deny":
		return p.rule(w.text == "allow", text)
	case "default", "names", "sni", "flows", "dns", "learn":
		return p.setting(w)
	}
	return p.errorf(w.column, "a line begins with allow, deny, default, names, sni, flows, dns or learn, not with %q", w.text)
}

// split divides a line into words, up to a comment.
func (p *reader) split(line string) {
	p.words, p.end = p.words[:0], 1
	for i := 0; i < len(line); {
		if line[i] == ' ' || line[i] == '\t' {
			i++
			continue
		}
		if line[i] == '#' {
			return
		}
		n := strings.IndexAny(line[i:], " \t")
		if n < 0 {
			n = len(line) - i
		}
		p.words = append(p.words, word{line[i : i+n], i + 1})
		i += n
		p.end = i + 1
	}
}

// next takes the next word; at the end ok is false, and the word has only a column.
func (p *reader) next() (w word, ok bool) {
	if len(p.words) == 0 {
		return word{column: p.end}, false
	}
	w, p.words = p.words[0], p.words[1:]
	return w, true
}

// accept takes the next word if it is the one given.
func (p *reader) accept(text string) bool {
	if len(p.words) == 0 || p.words[0].text != text {
		return false
	}
	p.words = p.words[1:]
	return true
}

// done returns an error if the line does not end here.
func (p *reader) done() error {
	if w, ok := p.next(); ok {
		return p.errorf(w.column, "nothing may follow here, but there is %q; a comment begins with '#'", w.text)
	}
	return nil
}

// setting reads a statement that is no rule. Each may be made once, or again with the
// same value.
func (p *reader) setting(name word) error {
	choices := map[string][]string{
		"default": {"allow", "deny"},
		"names":   {"synthetic", "pin"},
		"sni":     {"if-present", "require"},
		"flows":   {"keep", "kill"},
		"dns":     {"addresses", "any"},
		"learn":   nil,
	}[name.text]
	key := name.text
	if key == "default" && p.accept("in") {
		key = "default in"
	}
	var value word
	if choices != nil {
		value, _ = p.next()
		if value.text != choices[0] && value.text != choices[1] {
			return p.errorf(value.column, "%s is %s or %s", key, choices[0], choices[1])
		}
	}
	if err := p.done(); err != nil {
		return err
	}
	if before, ok := p.said[key]; ok && before.value != value.text {
		return p.errorf(name.column, "%s %s was said already, %s", key, before.value, before.where)
	}
	if p.said == nil {
		p.said = make(map[string]said)
	}
	p.said[key] = said{value.text, fmt.Sprintf("%s:%d", p.file, p.line)}
	switch key {
	case "names":
		p.policy.Pin = value.text == "pin"
	case "sni":
		p.policy.RequireSNI = value.text == "require"
	case "flows":
		p.policy.KillFlows = value.text == "kill"
	case "dns":
		p.policy.AnyDNS = value.text == "any"
	case "learn":
		p.policy.Learn = true
	}
	return nil
}

// defaults sets the default of each direction: as stated, or else allow if no rule allows
// anything.
func (p *reader) defaults() {
	p.policy.allow = [2]bool{true, true}
	for _, r := range p.policy.rules {
		if r.allow {
			p.policy.allow[r.direction] = false
		}
	}
	for d, key := range []string{"default", "default in"} {
		if s, ok := p.said[key]; ok {
			p.policy.allow[d] = s.value == "allow"
		}
	}
}
