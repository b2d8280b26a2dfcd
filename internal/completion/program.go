package completion

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Program is what can be typed behind its name.
type Program struct {
	Name     string
	Commands []Command // the first is the program without any, and has an empty name
}

// Command is one of its commands.
type Command struct {
	Name     string // with the command that it belongs to: "network ls"
	About    string
	Options  []Option
	Commands []string // its own, without its name
}

// Option is one that a command takes.
type Option struct {
	Name, Short string // without dashes; Short may be empty
	Argument    string // as the help names it; empty: it takes none
	About       string
}

// TakesFile reports whether the argument is one.
func (o Option) TakesFile() bool { return o.Argument == "PATH" || o.Argument == "FILE" }

// Read learns a program from its help texts. help gives what the program prints for
// arguments.
func Read(name string, help func(args ...string) (string, error)) (Program, error) {
	p := Program{Name: name}
	var read func(words []string, about string) error
	read = func(words []string, about string) error {
		text, err := help(append(slices.Clone(words), "--help")...)
		if err != nil {
			return fmt.Errorf("ask for help %v: %w", words, err)
		}
		at := len(p.Commands)
		p.Commands = append(p.Commands, Command{Name: strings.Join(words, " "), About: about, Options: options(text)})
		for _, entry := range entries(text) {
			p.Commands[at].Commands = append(p.Commands[at].Commands, entry.Name)
			if err := read(append(slices.Clone(words), entry.Name), entry.About); err != nil {
				return err
			}
		}
		return nil
	}
	err := read(nil, "")
	if err == nil && (len(p.Commands) == 1 || len(p.Commands[0].Options) == 0) {
		err = fmt.Errorf("the help of %s names no commands or no options", name)
	}
	return p, err
}

// unfold puts what the help has in several lines into one.
func unfold(help string) (lines []string) {
	const indent = "                    " // fewer columns than descriptions have before them
	for text := range strings.Lines(help) {
		text = strings.TrimRight(text, "\n")
		n := len(lines)
		if n == 0 || !strings.HasPrefix(text, indent) {
			lines = append(lines, text)
			continue
		}
		gap := " "
		if !strings.Contains(strings.TrimSpace(lines[n-1]), "  ") {
			gap = "  " // the description has only begun
		}
		lines[n-1] += gap + strings.TrimSpace(text)
	}
	return lines
}

// options finds the lines about options.
func options(help string) (list []Option) {
	line := regexp.MustCompile(`^ +(?:-(\w), )?--([a-z0-9][a-z0-9-]*)(?:[ =]|\[=)?([A-Z\[][^ ]*)?(?: {2,}(.*))?$`)
	for _, text := range unfold(help) {
		if m := line.FindStringSubmatch(text); m != nil {
			list = append(list, Option{Short: m[1], Name: m[2], Argument: strings.TrimSuffix(m[3], "]"), About: m[4]})
		}
	}
	return list
}

// entries finds the lines about commands.
func entries(help string) (list []Command) {
	line := regexp.MustCompile(`^  ([a-z]+) {2,}([^ ].*)$`)
	for _, text := range unfold(help) {
		if m := line.FindStringSubmatch(text); m != nil && m[1] != "help" {
			list = append(list, Command{Name: m[1], About: m[2]})
		}
	}
	return list
}
