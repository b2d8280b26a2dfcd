package netdef

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

func TestDefaultPaths(t *testing.T) {
	run, config := t.TempDir(), t.TempDir()
	t.Setenv("XDG_RUNTIME_DIR", run)
	t.Setenv("XDG_CONFIG_HOME", config)
	want := Paths{Runtime: run + "/epiphyte/networks", Config: config + "/epiphyte/networks"}
	for range 2 { // made, and met
		if got, err := DefaultPaths(); err != nil || got != want {
			t.Fatalf("%+v, %v; want %+v", got, err, want)
		}
	}
	for _, dir := range []string{run + "/epiphyte", want.Runtime} {
		if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("%s: mode %v (%v), want 0700", dir, info.Mode(), err)
		}
	}
	if _, err := os.Stat(config + "/epiphyte"); err == nil {
		t.Error("asking for paths makes the directory of definitions")
	}
	for got, want := range map[string]string{
		want.Socket("web.1"): want.Runtime + "/web.1.sock",
		want.API("web.1"):    want.Runtime + "/web.1.api",
		want.Lock("web.1"):   want.Runtime + "/web.1.lock",
		want.Log("web.1"):    want.Runtime + "/web.1.log",
		want.File("web.1"):   want.Config + "/web.1.json",
	} {
		if got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	t.Setenv("XDG_CONFIG_HOME", "")
	t.Setenv("HOME", config)
	if got, err := DefaultPaths(); err != nil || got.Config != config+"/.config/epiphyte/networks" {
		t.Errorf("by HOME: %+v, %v", got, err)
	}
}

// The directory of XDG_RUNTIME_DIR, else the user's below /run, else one for temporary
// files; the same again when it is there.
func TestPrivateDir(t *testing.T) {
	uid := strconv.Itoa(os.Getuid())
	xdg, run, temp := t.TempDir(), t.TempDir(), t.TempDir()
	user := filepath.Join(run, "user", uid)
	if err := os.MkdirAll(user, 0o700); err != nil {
		t.Fatal(err)
	}
	users := user // where the user's own is
	if uid == "0" {
		users = run
	}
	for range 2 {
		for _, tt := range []struct{ xdg, run, want string }{
			{xdg, run, xdg + "/epiphyte"},
			{"", run, users + "/epiphyte"},
			{user, run, users + "/epiphyte"},
			{"", run + "/nowhere", temp + "/epiphyte-" + uid},
		} {
			got, err := privateDir(tt.xdg, tt.run, temp)
			if err != nil || got != tt.want {
				t.Errorf("%s, %v; want %s", got, err, tt.want)
			}
			if info, err := os.Stat(got); err != nil || info.Mode().Perm() != 0o700 {
				t.Errorf("%s: mode %v (%v), want 0700", got, info.Mode(), err)
			}
		}
	}
}

// A directory that somebody else may have put there is not used.
func TestPrivateDirRefuses(t *testing.T) {
	nobody := filepath.Join(t.TempDir(), "nobody")
	own := "epiphyte-" + strconv.Itoa(os.Getuid())
	for _, tt := range []struct {
		name string
		make func(dir string) error // in the place of ours
		want string
	}{
		{"open to others", func(dir string) error {
			if err := os.Mkdir(dir, 0o700); err != nil {
				return err
			}
			return os.Chmod(dir, 0o750)
		}, "chmod 700"},
		{"link", func(dir string) error { return os.Symlink(t.TempDir(), dir) }, "not a directory"},
		{"file", func(dir string) error { return os.WriteFile(dir, nil, 0o600) }, "not a directory"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			temp := t.TempDir()
			if err := tt.make(filepath.Join(temp, own)); err != nil {
				t.Fatal(err)
			}
			got, err := privateDir("", nobody, temp)
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), temp) {
				t.Errorf("%s, %v; want an error with %q and the path", got, err, tt.want)
			}
		})
	}
	for _, xdg := range []string{"relative", nobody, foreign(t)} {
		if _, err := privateDir(xdg, nobody, t.TempDir()); err == nil || !strings.Contains(err.Error(), "XDG_RUNTIME_DIR") || !strings.Contains(err.Error(), xdg) {
			t.Errorf("XDG_RUNTIME_DIR=%s: %v, want an error that names both", xdg, err)
		}
	}
	if os.Getuid() == 0 {
		temp := t.TempDir()
		if err := os.Rename(foreign(t), filepath.Join(temp, own)); err != nil {
			t.Fatal(err)
		}
		if _, err := privateDir("", nobody, temp); err == nil || !strings.Contains(err.Error(), "another user") {
			t.Errorf("a directory of another user's: %v", err)
		}
	}
}

// foreign is a directory of another user's.
func foreign(t *testing.T) string {
	t.Helper()
	if os.Getuid() != 0 {
		return "/"
	}
	dir := filepath.Join(t.TempDir(), "foreign")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(dir, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	return dir
}
