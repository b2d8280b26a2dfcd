package doctor

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// setting returns the value of a sysctl by its name, empty if the kernel has none.
func setting(name string) string {
	b, err := os.ReadFile("/proc/sys/" + strings.ReplaceAll(name, ".", "/"))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// leastNamespaces is the least limit that counts as enough: a guest takes one of each kind,
// and its container engine some more.
const leastNamespaces = 16

// userNamespaces checks the settings that switch them off: Debian's and the kernel's own.
func userNamespaces() Finding {
	const thing = "user namespaces"
	if _, err := os.Stat("/proc/self/ns/user"); err != nil {
		return fault(thing, "this kernel has none (CONFIG_USER_NS)", "")
	}
	if clone := "kernel.unprivileged_userns_clone"; setting(clone) == "0" {
		return fault(thing, clone+" keeps plain users from making them", "sysctl -w "+clone+"=1")
	}
	for _, kind := range [...]string{"user", "net", "mnt"} {
		limit := "user.max_" + kind + "_namespaces"
		n, err := strconv.Atoi(setting(limit))
		switch {
		case err != nil || n >= leastNamespaces:
		case n == 0:
			return fault(thing, limit+" is 0: none can be made", "sysctl -w "+limit+"=15000")
		default:
			return limited(thing, limit+" lets this user have "+strconv.Itoa(n)+" in all", "sysctl -w "+limit+"=15000", Root)
		}
	}
	return ok(thing, "nothing switches them off")
}

// appArmor checks the restriction that Ubuntu has had since 23.10: without a profile that
// allows it, a program gets namespaces without rights in them. A profile shows as the label
// of this process.
func appArmor() Finding {
	const (
		thing       = "AppArmor"
		restriction = "kernel.apparmor_restrict_unprivileged_userns"
		profile     = "/etc/apparmor.d/epiphyte"
	)
	label := ownLabel()
	switch {
	case setting(restriction) != "1":
		return ok(thing, "does not restrict user namespaces")
	case label != "" && label != "unconfined":
		return ok(thing, "restricts user namespaces, and this program runs under the profile "+label)
	}
	text := "keeps programs without a profile from using user namespaces (" + restriction + ")"
	if _, err := os.Stat(profile); err == nil {
		return fault(thing, text+"; "+profile+" is there, and not loaded, or for a program elsewhere", "apparmor_parser --replace "+profile)
	}
	if shipped := installed("share/epiphyte/apparmor"); shipped != "" {
		return fault(thing, text, "cp "+shipped+" "+profile+" && apparmor_parser --replace "+profile)
	}
	return fault(thing, text, "sysctl -w "+restriction+"=0")
}

// installed returns the path of a file that was installed with this program, by its path
// below the prefix; empty if it does not exist.
func installed(file string) string {
	self, err := os.Executable()
	if err != nil {
		return ""
	}
	path := filepath.Join(filepath.Dir(filepath.Dir(self)), file)
	if _, err := os.Stat(path); err != nil {
		return ""
	}
	return path
}

// ownLabel is this process's under AppArmor, empty without it.
func ownLabel() string {
	for _, path := range [...]string{"/proc/self/attr/apparmor/current", "/proc/self/attr/current"} {
		if b, err := os.ReadFile(path); err == nil {
			return strings.Trim(string(b), "\n\x00")
		}
	}
	return ""
}
