package network

import (
	"os"
	"path/filepath"
	"testing"
)

// Removing or renaming a path in a watched directory is told, as is the end of the
// directory.
func TestRemovals(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "netns")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	told := make(chan struct{}, 64)
	r, err := watchRemovals(func() { told <- struct{}{} })
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	path := func(name string) string { return filepath.Join(dir, name) }
	for _, name := range []string{"one", "two", "three"} {
		if err := os.WriteFile(path(name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := r.add(path(name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, remove := range []func() error{
		func() error { return os.Remove(path("one")) },
		func() error { return os.Rename(path("two"), filepath.Join(t.TempDir(), "two")) },
		func() error { return os.RemoveAll(dir) },
	} {
		if err := remove(); err != nil {
			t.Fatal(err)
		}
		<-told
	}
	if !isRemoved(path("one")) {
		t.Error("a path that is gone is not removed")
	}
	if err := r.add(path("four")); err == nil {
		t.Error("a directory that is gone is watched")
	}
}
