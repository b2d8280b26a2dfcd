package namespace

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"epiphyte/internal/subid"
)

func TestResolvConfContent(t *testing.T) {
	servers := []netip.Addr{netip.MustParseAddr("10.90.0.1"), netip.MustParseAddr("fd90::1")}
	const nameservers = "nameserver 10.90.0.1\nnameserver fd90::1\n"
	host := "# comment\nnameserver 192.0.2.1\nsearch  example.org example.net\n options edns0 trust-ad\nsortlist 10.0.0.0\n\nsearch\noptions ndots:5"
	for _, tt := range []struct {
		name, host string
		cfg        Config
		want       string
	}{
		{"the host's", host, Config{}, "search example.org example.net\noptions edns0 trust-ad ndots:5\n"},
		{"ours before and after", host, Config{Search: []string{"web"}, Options: []string{"ndots:0"}},
			"search web example.org example.net\noptions edns0 trust-ad ndots:0\n"},
		{"duplicates", host, Config{Search: []string{"web", "Example.NET."}, Options: []string{"edns0"}},
			"search web Example.NET. example.org\noptions trust-ad ndots:5 edns0\n"},
		{"the last of search and domain", "search a b\ndomain c d\n", Config{}, "search c\n"},
		{"the last of search and domain", "domain c\nsearch a b\n", Config{Search: []string{"web"}}, "search web a b\n"},
		{"an empty file", "", Config{Search: []string{"web"}, Options: []string{"ndots:0"}}, "search web\noptions ndots:0\n"},
		{"nothing", "", Config{}, ""},
	} {
		tt.cfg.Nameservers = servers
		if got := string(tt.cfg.resolvConf([]byte(tt.host))); got != nameservers+tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, nameservers+tt.want)
		}
	}
}

func TestResolvConfMissing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	for _, want := range []string{path + " does not exist", path + " leads to stub.conf, which does not exist"} {
		if got := missing(path); !strings.HasPrefix(got, want) || strings.Contains(got, "\n") {
			t.Error(got)
		}
		if err := os.Symlink("stub.conf", path); err != nil && !os.IsExist(err) {
			t.Fatal(err)
		}
	}
}

func TestPlaceBesideIsNotAboveTheTarget(t *testing.T) {
	run, err := filepath.EvalSymlinks("/tmp")
	if err != nil {
		t.Fatal(err)
	}
	got, err := placeBeside(run + "/x/resolv.conf")
	if err != nil || got == run {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := placeBeside("/etc/resolv.conf"); err != nil || got != run {
		t.Errorf("%q, %v", got, err)
	}
}

func TestSettings(t *testing.T) {
	root := t.TempDir()
	for _, s := range settings(IDs{}) {
		file := filepath.Join(root, s.name)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if w := applySettings(root, IDs{}); w != nil {
		t.Errorf("warnings %q", w)
	}
	for _, s := range settings(IDs{}) {
		b, err := os.ReadFile(filepath.Join(root, s.name))
		if err != nil || string(b) != s.value {
			t.Errorf("%s is %q, %v; want %q", s.name, b, err, s.value)
		}
	}
	if w := applySettings(filepath.Join(root, "none"), IDs{}); w != nil {
		t.Errorf("a kernel without the settings: warnings %q", w)
	}
	file := filepath.Join(root, settings(IDs{})[0].name)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(file, 0o700); err != nil { // cannot be written, by anybody
		t.Fatal(err)
	}
	if w := applySettings(root, IDs{}); len(w) != 1 || !strings.Contains(w[0], "net/ipv4/ping_group_range: is a directory; ping") {
		t.Errorf("warnings %q", w)
	}
}

// The range of groups with ping sockets has the caller's own by its number outside, which is
// what the kernel compares, and all others where one range can have them.
func TestGroupRange(t *testing.T) {
	high := subid.Block{First: 100000, Count: 65536}
	low := subid.Block{First: 100, Count: 500}
	for _, tt := range []struct {
		inside, outside int
		block           subid.Block
		first, last     int
	}{
		{0, 1001, subid.Block{}, 0, 0},
		{1001, 1001, subid.Block{}, 1001, 1001},
		{0, 1001, high, 0, 65535},
		{1001, 1001, high, 1001, 65535},
		{0, 1001, low, 0, 0},
		{400, 1001, low, 0, 400},
		{1001, 1001, low, 0, 1001},
		{70000, 70000, high, 70000, 70000},
	} {
		ids := IDs{Groups: mapAround(tt.inside, tt.outside, tt.block)}
		if first, last := ids.groupRange(); first != tt.first || last != tt.last {
			t.Errorf("%d for %d and %+v: %d to %d, want %d to %d", tt.inside, tt.outside, tt.block, first, last, tt.first, tt.last)
		}
	}
	if first, last := (IDs{}).groupRange(); first != 0 || last != 0 {
		t.Errorf("of the zero value: %d to %d", first, last)
	}
}

func TestB2_HintNamesTheSetting(t *testing.T) {
	for _, tc := range []struct {
		err      error
		settings map[string]string
		want     string
	}{
		{syscall.EPERM, map[string]string{settingClone: "0", settingAppArmor: "1"}, "kernel.unprivileged_userns_clone=1"},
		{syscall.EPERM, map[string]string{settingClone: "1", settingAppArmor: "1"}, "kernel.apparmor_restrict_unprivileged_userns=0"},
		{syscall.EACCES, map[string]string{settingAppArmor: "1"}, "kernel.apparmor_restrict_unprivileged_userns=0"},
		{syscall.EPERM, nil, "seccomp"},
		{syscall.ENOSPC, map[string]string{settingUser: "0"}, "user.max_user_namespaces is 0"},
		{syscall.ENOSPC, map[string]string{settingUser: "100", settingNet: "0"}, "user.max_net_namespaces is 0"},
		{syscall.ENOSPC, map[string]string{settingUser: "100"}, "limit of namespaces is reached"},
		{syscall.EINVAL, nil, "CONFIG_USER_NS"},
		{syscall.EAGAIN, nil, ""},
	} {
		got := hint(tc.err, func(path string) string { return tc.settings[path] })
		if !strings.Contains(got, tc.want) || (tc.want == "") != (got == "") || strings.Contains(got, "\n") {
			t.Errorf("%v, %v: %q, want %q in it", tc.err, tc.settings, got, tc.want)
		}
	}
}

func TestMapAround(t *testing.T) {
	type m = syscall.SysProcIDMap
	for _, tt := range []struct {
		inside int
		block  subid.Block
		want   []m
	}{
		{0, subid.Block{}, []m{{ContainerID: 0, HostID: 1001, Size: 1}}},
		{0, subid.Block{First: 100000, Count: 1}, []m{{ContainerID: 0, HostID: 1001, Size: 1}}},
		{0, subid.Block{First: 100000, Count: 3}, []m{{ContainerID: 0, HostID: 1001, Size: 1}, {ContainerID: 1, HostID: 100000, Size: 2}}},
		{2, subid.Block{First: 100000, Count: 5}, []m{{ContainerID: 2, HostID: 1001, Size: 1}, {ContainerID: 0, HostID: 100000, Size: 2}, {ContainerID: 3, HostID: 100002, Size: 2}}},
		{9, subid.Block{First: 100000, Count: 5}, []m{{ContainerID: 9, HostID: 1001, Size: 1}, {ContainerID: 0, HostID: 100000, Size: 5}}},
	} {
		if got := mapAround(tt.inside, 1001, tt.block); !slices.Equal(got, tt.want) {
			t.Errorf("%d, %+v: %+v", tt.inside, tt.block, got)
		}
	}
}
