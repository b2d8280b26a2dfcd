package forwards

import (
	"slices"
	"testing"

	"epiphyte/internal/pasta"
)

// FuzzFile: whatever is in the file, what is made of it is written and read again without
// loss.
func FuzzFile(f *testing.F) {
	for _, content := range []string{
		"", heading, heading + "-t 0.0.0.0/8080:10.89.0.2/80\n-u %eth0/53\n", "-t 80\n-t 80:8080\n-t 0\nrubbish\n\x00\n-T auto,~22",
		"-U all:[fd00::5]\n-U 127.0.0.1/all,~1-1023", "-t\t22-33,~25", "\n\n#\n -t none",
	} {
		f.Add(content)
	}
	f.Fuzz(func(t *testing.T, content string) {
		var table pasta.Table
		number := 0
		for _, l := range parse(content) {
			if l.number <= number || l.err != nil && l.forwards != nil {
				t.Errorf("%q: %+v", content, l)
			}
			number = l.number
			if next, err := table.Add(l.forwards...); err == nil {
				table = next
			}
		}
		var again pasta.Table
		for _, l := range parse(format(table)) {
			again = append(again, l.forwards...)
		}
		if !slices.Equal(table, again) {
			t.Errorf("%q: %v is read again as %v", content, table, again)
		}
	})
}
