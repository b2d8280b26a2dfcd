package logfile

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func openFile(t *testing.T, limit int64) (*File, func() string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "log")
	f, err := Open(path, limit, "first line")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f, func() string {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
}

// TestTheNewestLinesStay: whatever their sizes, behind the first line stand the newest
// ones without a gap, as many as fill a third of the limit at least, and never more than it.
func TestTheNewestLinesStay(t *testing.T) {
	for _, length := range []int{1, 10, 100, 1000, 1900, 2500, 4000} {
		t.Run(fmt.Sprint(length), func(t *testing.T) {
			const limit = MinSize
			f, read := openFile(t, limit)
			line := func(i int) string { return fmt.Sprintf("%d%s", i, strings.Repeat("x", (i*7)%length)) }
			for i := range 400 {
				if n, err := fmt.Fprintln(f, line(i)); err != nil || n != len(line(i))+1 {
					t.Fatal(n, err)
				}
				text := read()
				if len(text) > limit || !strings.HasSuffix(text, "\n") {
					t.Fatalf("%d bytes", len(text))
				}
				lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
				if lines[0] != "first line" {
					t.Fatalf("the first line is %q", lines[0])
				}
				lines = lines[1:]
				for j, l := range lines {
					if want := line(i - len(lines) + 1 + j); l != want {
						t.Fatalf("after line %d: %q stands where %q belongs", i, l, want)
					}
				}
				if i == 399 && length >= 100 && length <= 1000 && len(text) < limit/3 {
					t.Errorf("%d bytes are left of the lines", len(text))
				}
			}
		})
	}
}

// TestALineThatIsTooLongLosesItsEnd.
func TestALineThatIsTooLongLosesItsEnd(t *testing.T) {
	f, read := openFile(t, MinSize)
	fmt.Fprintln(f, "short")
	long := strings.Repeat("x", 2*MinSize)
	if n, err := fmt.Fprintln(f, long); n != len(long)+1 || err != nil {
		t.Error(n, err)
	}
	if text := read(); len(text) != MinSize || !strings.HasPrefix(text, "first line\nxxx") || !strings.HasSuffix(text, "x\n") {
		t.Errorf("%d bytes", len(text))
	}
	fmt.Fprintln(f, "short again")
	if text := read(); text != "first line\nshort again\n" {
		t.Errorf("%q", text)
	}
}

// TestOpenReplacesWhatWasThere, for its owner alone.
func TestOpenReplacesWhatWasThere(t *testing.T) {
	f, read := openFile(t, MinSize)
	fmt.Fprintln(f, "of before")
	again, err := Open(f.file.Name(), MinSize, "another")
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if text := read(); text != "another\n" {
		t.Errorf("%q", text)
	}
	if info, err := os.Stat(f.file.Name()); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

// TestOpenRefuses with the path in the message.
func TestOpenRefuses(t *testing.T) {
	for _, path := range []string{t.TempDir(), filepath.Join(t.TempDir(), "missing", "log")} {
		if _, err := Open(path, MinSize, "x"); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%v", err)
		}
	}
	if _, err := Open(filepath.Join(t.TempDir(), "log"), MinSize-1, "x"); err == nil {
		t.Error("a limit below the least is taken")
	}
}

// TestPipesAreWrittenTo as they are.
func TestPipesAreWrittenTo(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	f, err := Open(fmt.Sprintf("/proc/self/fd/%d", w.Fd()), MinSize, "first line")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	long := strings.Repeat("x", 2*MinSize)
	fmt.Fprintln(f, long)
	want := "first line\n" + long + "\n"
	b := make([]byte, 2*len(want))
	n := 0
	for n < len(want) {
		m, err := r.Read(b[n:])
		if err != nil {
			t.Fatal(err)
		}
		n += m
	}
	if string(b[:n]) != want {
		t.Errorf("%d bytes, want %d", n, len(want))
	}
}
