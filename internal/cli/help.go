package cli

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

// The layout of help texts, in columns: a description begins at helpColumn and ends before
// helpWidth, which every terminal has.
const (
	helpWidth  = 80
	helpColumn = 28
)

// optionGroup is a heading of a help text and the options below it.
type optionGroup struct {
	title   string
	options []string
}

// optionGroups are those of attach and run, in order. Options that are in none come last.
func optionGroups() []optionGroup {
	return []optionGroup{
		{"What is served", []string{"netns-type", "userns-path", "target-type", "configure", "map-auto", "map-current"}},
		{"The guest's network", []string{"mtu", "cidr", "cidr6", "enable-ipv6", "ipv6", "macaddress", "disable-host-loopback", "no-host-loopback", "outbound-addr", "outbound-addr6"}},
		{"Names", []string{"disable-dns", "resolv-conf"}},
		{"Ports", []string{"publish", "publish-mode", "expose-host"}},
		{"Networks of several guests", []string{"network", "name", "alias", "ip", "ip6", "mac"}},
		{"What the guest may reach", policyFlags()},
		{"Start and end", []string{"ready-fd", "exit-fd", "exit-with-target", "kill-children"}},
		{"Asking the running program", []string{"api-socket", "http-socket"}},
		{"Log and captures", []string{"quiet", "log-level", "log-format", "log-file", "log-size", "stats", "pcap", "pcap-size", "pcap-snaplen"}},
		{"The program itself", []string{"queues", "bulk", "no-offload", "sandbox", "enable-sandbox", "create-sandbox", "enable-seccomp"}},
	}
}

// optionsHelp describes all options of fs, below the headings of groups.
func optionsHelp(fs *pflag.FlagSet, groups ...optionGroup) string {
	var b strings.Builder
	rest := optionGroup{title: "Options"}
	fs.VisitAll(func(f *pflag.Flag) {
		if !slices.ContainsFunc(groups, func(g optionGroup) bool { return slices.Contains(g.options, f.Name) }) {
			rest.options = append(rest.options, f.Name)
		}
	})
	if len(groups) > 0 {
		rest.title = "Others"
	}
	for _, g := range append(groups, rest) {
		heading := "\n" + g.title + ":\n"
		for _, name := range g.options {
			f := fs.Lookup(name)
			if f == nil || f.Hidden {
				continue
			}
			b.WriteString(heading)
			heading = ""
			writeOption(&b, f)
		}
	}
	return b.String()
}

// writeOption describes one option.
func writeOption(b *strings.Builder, f *pflag.Flag) {
	argument, about := pflag.UnquoteUsage(f)
	left := "      --" + f.Name
	if f.Shorthand != "" {
		left = "  -" + f.Shorthand + ", --" + f.Name
	}
	switch {
	case f.Value.Type() == "bool": // has none
	case f.NoOptDefVal != "":
		left += "[=" + argument + "]"
	default:
		left += " " + argument
	}
	if f.DefValue != "" && f.DefValue != "false" && f.DefValue != "0" {
		about += " (default " + f.DefValue + ")"
	}
	writeEntry(b, left, about)
}

// writeEntry puts left beside its description, or above it if left is too long.
func writeEntry(b *strings.Builder, left, about string) {
	b.WriteString(left)
	at := len(left)
	if at > helpColumn-2 {
		b.WriteByte('\n')
		at = 0
	}
	fill(b, at, helpColumn, about)
}

// fill writes words from column at on, wrapped and indented.
func fill(b *strings.Builder, at, indent int, text string) {
	for i, word := range strings.Fields(text) {
		switch {
		case at < indent:
			b.WriteString(strings.Repeat(" ", indent-at))
			at = indent
		case at+1+len(word) >= helpWidth:
			b.WriteString("\n" + strings.Repeat(" ", indent))
			at = indent
		case i > 0 || at > indent:
			b.WriteByte(' ')
			at++
		}
		b.WriteString(word)
		at += len(word)
	}
	b.WriteByte('\n')
}

// aboutHelp lays out the description of a command below its usage, the first line by itself.
func aboutHelp(about string) string {
	var b strings.Builder
	first, rest, more := strings.Cut(about, "\n")
	fill(&b, 0, 0, first)
	if more {
		fill(&b, 0, 0, rest)
	}
	return b.String()
}

// commandsHelp lists our own commands, those for one purpose together.
func commandsHelp() string {
	var b strings.Builder
	purpose := ""
	for _, c := range commands() {
		if c.purpose != purpose {
			purpose = c.purpose
			fmt.Fprintf(&b, "\n%s:\n", purpose)
		}
		writeEntry(&b, fmt.Sprintf("  %-11s", c.name), c.about)
	}
	return b.String()
}
