package cli

import (
	"bytes"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// screen shows texts one after another: in the same place on a terminal, and
// separated by empty lines elsewhere.
type screen struct {
	w     io.Writer
	size  func() (rows, columns int) // nil: not a terminal
	lines int                        // on display now
	shown bool
}

func newScreen(w io.Writer) *screen {
	s := &screen{w: w}
	f, ok := w.(*os.File)
	if !ok {
		return s
	}
	size := func() (int, int) {
		ws, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
		if err != nil || ws.Row < 2 || ws.Col < 2 {
			return 24, 80
		}
		return int(ws.Row), int(ws.Col)
	}
	if isTerminal(f) {
		s.size = size
	}
	return s
}

// show replaces the last text by as much of this one as fits: if the terminal scrolled, the
// next text would not start in the same place.
func (s *screen) show(text []byte) error {
	var b bytes.Buffer
	switch {
	case s.size == nil:
		if s.shown {
			b.WriteByte('\n')
		}
		b.Write(text)
	default:
		if s.lines > 0 {
			fmt.Fprintf(&b, "\x1b[%dF", s.lines) // to the first line
		}
		b.WriteString("\x1b[J") // erase from here on
		b.Write(s.fit(text))
	}
	s.shown = true
	_, err := s.w.Write(b.Bytes())
	return err
}

// fit cuts text to the terminal's size and counts its lines.
func (s *screen) fit(text []byte) []byte {
	rows, columns := s.size()
	lines := bytes.SplitAfter(bytes.TrimSuffix(text, []byte("\n")), []byte("\n"))
	// The cursor takes a line of its own below.
	if hidden := len(lines) - (rows - 1); hidden > 0 {
		lines = append(lines[:rows-2:rows-2], fmt.Appendf(nil, "... and %d more", hidden+1))
	}
	var b bytes.Buffer
	for _, line := range lines {
		line = bytes.TrimSuffix(line, []byte("\n"))
		b.Write(line[:min(len(line), columns-1)])
		b.WriteByte('\n')
	}
	s.lines = len(lines)
	return b.Bytes()
}
