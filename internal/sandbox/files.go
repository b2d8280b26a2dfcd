package sandbox

import (
	"errors"
	"os"
	"path/filepath"

	"github.com/landlock-lsm/go-landlock/landlock"
	llsys "github.com/landlock-lsm/go-landlock/landlock/syscall"
)

// maxLinks is how many symbolic links in a row are followed, as many as the kernel
// does (MAXSYMLINKS).
const maxLinks = 40

// restrictFiles has the kernel refuse all files but those named.
func (cfg *Config) restrictFiles() error {
	if abi, err := llsys.LandlockGetABIVersion(); err != nil || abi < 1 {
		return errors.New("the kernel has no Landlock, or it is switched off (Linux 5.13, CONFIG_SECURITY_LANDLOCK, lsm=landlock)")
	}
	limits := landlock.V11
	limits.HandledAccessNet = 0 // connecting is what the program is for
	if len(cfg.Children) > 0 {
		// They were started before and are outside; the filter names them.
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

// places are the directories in which path, or what its symbolic links lead to, may be
// replaced. The root directory, which would be everything, is never one of them: in its
// place stands the file.
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
			// Not cleaned by its text alone: dir may be a symbolic link, too.
			if real, err := filepath.EvalSymlinks(dir); err == nil {
				dir = real
			}
			target = filepath.Join(dir, target)
		}
		path = target
	}
	return all
}

// existing is the nearest directory around one that may be made later.
func existing(dir string) string {
	for {
		if _, err := os.Stat(dir); err == nil || dir == "/" {
			return dir
		}
		dir = filepath.Dir(dir)
	}
}
