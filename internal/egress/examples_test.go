package egress

import (
	"os"
	"path/filepath"
	"testing"
)

// The examples of the documentation are policies.
func TestExamples(t *testing.T) {
	files, _ := filepath.Glob("../../docs/examples/*.policy")
	if len(files) < 3 {
		t.Fatalf("%d examples", len(files))
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Parse(Source{f, string(b)}); err != nil {
			t.Error(err)
		}
	}
}
