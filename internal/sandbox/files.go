package sandbox

import (
	"errors"
	"os"
	"path/filepath"

	"github.com/landlock-lsm/go-landlock/landlock"
	llsys "github.com/landlock-lsm/go-landlock/landlock/syscall"
)

// maxLinks bounds the symbolic links followed in a row, as in the kernel (MAXSYMLINKS).
const maxLinks = 40

// restrictFiles has the kernel refuse all files but those named.
func (cfg *Config) restrictFiles() error {
	if abi, err := llsys.LandlockGetABIVersion(); err != nil || abi < 1 {
		return errors.New("the kernel has no Landlock, or it is switched off (Linux 5.13, CONFIG_SECURITY_LANDLOCK, lsm=landlock)")
	}
	limits := landlock.V11
	limits.HandledAccessNet = 0 // the program must connect anywhere
	if len(cfg.Children) > 0 {
		// They are outside the domain; the seccomp filter names them instead.
		limits.Scoped &^= landlock.ScopedSet(llsys.ScopeSignal)
	}
	var rules []landlock.Rule
	for _, path := range cfg.Read {
		rules = append(rules, landlock.PathAccess(llsys.AccessFSReadFile, places(path)...).IgnoreIfMissing())
	}
	if len(cfg.ReadIn) > 0 {
		rules = append(rules, landlock.PathAccess(llsys.AccessFSReadFile|llsys.AccessFSReadDir, cfg.ReadIn...))
	}
	for _, dir := range cfg.Own {
		rules = append(rules, landlock.PathAccess(llsys.AccessFSReadFile|llsys.AccessFSReadDir|
			llsys.AccessFSWriteFile|llsys.AccessFSMakeReg|llsys.AccessFSRemoveFile, dir))
		if parent := filepath.Dir(dir); parent != "/" {
			rules = append(rules, landlock.PathAccess(llsys.AccessFSRemoveDir, parent))
		}
	}
	if len(cfg.Connect) > 0 {
		rules = append(rules, landlock.PathAccess(llsys.AccessFSResolveUnix, cfg.Connect...).IgnoreIfMissing())
	}
	for _, path := range cfg.Remove {
		if dir := filepath.Dir(path); dir != "/" {
			rules = append(rules, landlock.PathAccess(llsys.AccessFSRemoveFile, dir))
		}
	}
	return limits.BestEffort().Restrict(rules...)
}

// places returns the directories in which path, or a target of its symbolic links, may be
// replaced. In place of the root directory, which would be everything, it returns the file.
func places(path string) []string {
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	var all []string
	for range maxLinks {
		dir := filepath.Dir(path)
		switch near := existing(dir); {
		case near != "/":
			all = append(all, near)
		case dir == "/":
			all = append(all, path)
		}
		target, err := os.Readlink(path)
		if err != nil {
			break // a file, or nothing yet
		}
		if !filepath.IsAbs(target) {
			// Not just cleaned as text: dir may be a symbolic link, too.
			if real, err := filepath.EvalSymlinks(dir); err == nil {
				dir = real
			}
			target = filepath.Join(dir, target)
		}
		path = target
	}
	return all
}

// existing returns the nearest existing ancestor of a directory that may be made later.
func existing(dir string) string {
	for {
		if _, err := os.Stat(dir); err == nil || dir == "/" {
			return dir
		}
		dir = filepath.Dir(dir)
	}
}
