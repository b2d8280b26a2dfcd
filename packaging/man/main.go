// Command man turns the documents into what go-md2man makes manual pages of:
//
//	go run ./packaging/man VERSION DATE NAME.SECTION ABOUT <docs/manual.md
//
// # Theory of operation
//
// A document is Markdown for readers of the source tree, and stays the only text. Here its
// title becomes a page's head and name, headings move up by one, and tables become lists,
// because no table of these fits 80 columns: the first column is what is explained, and the
// others follow under their headings. Links keep their text and lose their targets, unless
// these are outside of the tree.
package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
)

func main() {
	if len(os.Args) != 5 {
		fmt.Fprintln(os.Stderr, "Usage: man VERSION DATE NAME.SECTION ABOUT <DOCUMENT")
		os.Exit(2)
	}
	w := bufio.NewWriter(os.Stdout)
	err := convert(w, os.Stdin, os.Args[1], os.Args[2], os.Args[3], os.Args[4])
	if err == nil {
		err = w.Flush()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "man:", err)
		os.Exit(1)
	}
}

func convert(w io.Writer, document io.Reader, version, date, page, about string) error {
	text, err := io.ReadAll(document)
	if err != nil {
		return err
	}
	name, section, found := strings.Cut(page, ".")
	title, body, titled := strings.Cut(string(text), "\n")
	if !found || !titled || !strings.HasPrefix(title, "# ") {
		return fmt.Errorf("%s: a page has a section, and its document a title", page)
	}
	fmt.Fprintf(w, "%% %q %q %q %q %q\n\n", strings.ToUpper(name), section, date, "epiphyte "+version, "Epiphyte")
	fmt.Fprintf(w, "# NAME\n\n%s - %s\n\n", name, about)
	rest := strings.TrimLeft(body, "\n")
	if introduction, _, _ := strings.Cut(rest, "\n## "); len(introduction) > len(about)+2 {
		rest = "## Description\n\n" + rest
	} else {
		rest = rest[len(introduction):] // says no more than the name does
	}
	c := converter{w: w}
	for line := range strings.Lines(rest) {
		c.line(strings.TrimRight(line, "\n"))
	}
	return nil
}

// converter is between two lines of a document.
type converter struct {
	w     io.Writer
	code  bool     // in a fenced block
	heads []string // of the table that it is in; nil: in none
}

func (c *converter) line(s string) {
	if strings.HasPrefix(s, "```") {
		c.code = !c.code
		if c.code {
			s = "```"
		}
	}
	switch {
	case c.code || strings.HasPrefix(s, "```"):
	case strings.HasPrefix(s, "|"):
		c.row(s)
		return
	case strings.HasPrefix(s, "## "):
		s = "# " + strings.ToUpper(plain(s[3:]))
	case strings.HasPrefix(s, "### "):
		s = "## " + plain(s[4:])
	default:
		s = plain(s)
	}
	c.heads = nil
	fmt.Fprintln(c.w, s)
}

// row is a line of a table: its heads, the rule below them, or what they are about.
func (c *converter) row(s string) {
	var cells []string
	for _, cell := range strings.Split(strings.ReplaceAll(strings.Trim(s, "|"), `\|`, "\x00"), "|") {
		cells = append(cells, plain(strings.TrimSpace(strings.ReplaceAll(cell, "\x00", "|"))))
	}
	if c.heads == nil {
		c.heads = cells
		return
	}
	if strings.Trim(s, "|-: ") == "" {
		return
	}
	var text, labelled []string
	for i, cell := range cells[1:] {
		switch {
		case cell == "":
		case len(cells) == 2, i+1 >= len(c.heads), c.heads[i+1] == "", c.heads[i+1] == "meaning":
			text = append(text, cell)
		default:
			labelled = append(labelled, c.heads[i+1]+": "+cell)
		}
	}
	text = append(text, labelled...)
	fmt.Fprintf(c.w, "%s\n: %s\n\n", cells[0], strings.Join(text, ". "))
}

// plain takes the targets of links within the tree away, and pictures.
func plain(s string) string {
	s = regexp.MustCompile(`!\[[^]]*\]\([^)]*\)`).ReplaceAllString(s, "")
	return regexp.MustCompile(`\[([^]]*)\]\((?:#|[^):]*\.[a-z]+|\.\.)[^):]*\)`).ReplaceAllString(s, "$1")
}
