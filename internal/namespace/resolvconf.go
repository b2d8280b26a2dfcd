package namespace

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"epiphyte/internal/names"
)

// resolvConf returns the command's resolv.conf(5): our name servers, with the search list and
// options of the host's file, which are valid here, too.
func (cfg Config) resolvConf(host []byte) []byte {
	search, options := parseResolvConf(host)
	var b bytes.Buffer
	for _, s := range cfg.Nameservers {
		fmt.Fprintf(&b, "nameserver %v\n", s)
	}
	writeList(&b, "search", keepFirst(slices.Concat(cfg.Search, search)))
	writeList(&b, "options", keepLast(append(options, cfg.Options...)))
	return b.Bytes()
}

// HostSearch returns the search list of the resolv.conf(5) at path, empty if there is none.
// Domains have no final dot; invalid ones are left out.
func HostSearch(path string) []string {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	search, _ := parseResolvConf(text)
	var list []string
	for _, domain := range keepFirst(search) {
		// The root alone means that there is no list (systemd-resolved).
		if name, ok := names.Domain(domain); ok {
			list = append(list, name)
		}
	}
	return list
}

func parseResolvConf(text []byte) (search, options []string) {
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		switch fields[0] {
		case "search": // the last line of the two kinds counts
			search = fields[1:]
		case "domain":
			search = fields[1:2]
		case "options":
			options = append(options, fields[1:]...)
		}
	}
	return search, options
}

func writeList(b *bytes.Buffer, keyword string, values []string) {
	if len(values) > 0 {
		fmt.Fprintf(b, "%s %s\n", keyword, strings.Join(values, " "))
	}
}

// keepFirst drops repeated domains, which would be asked for twice.
func keepFirst(domains []string) (list []string) {
	seen := map[string]bool{}
	for _, d := range domains {
		if key := strings.ToLower(strings.TrimSuffix(d, ".")); !seen[key] {
			seen[key] = true
			list = append(list, d)
		}
	}
	return list
}

// keepLast drops options that are set again later, because libraries differ: of two
// on one line glibc believes the last, and musl the first.
func keepLast(options []string) (list []string) {
	name := func(option string) string { n, _, _ := strings.Cut(option, ":"); return n }
	for i, o := range options {
		if !slices.ContainsFunc(options[i+1:], func(later string) bool { return name(later) == name(o) }) {
			list = append(list, o)
		}
	}
	return list
}

// mountResolvConf puts our file over the one that path leads to, in this mount namespace
// only. If that does not exist, nothing can be mounted over it: its directory is shown with
// our file in it, read-only. If the kernel refuses that (before Linux 5.11, or with other
// mounts below the directory) it returns a warning, since the command may not need names.
func (cfg Config) mountResolvConf(path string) (warning string, err error) {
	host, err := os.ReadFile(path)
	lacks, cover := errors.Is(err, os.ErrNotExist), coverFile
	leads := path
	if lacks {
		cover, leads = coverDir, filepath.Dir(path)
	}
	// A file that we may not read is still mounted over.
	target, err := filepath.EvalSymlinks(leads)
	if err != nil {
		return "", fmt.Errorf("find %s: %w", leads, errnoOf(err))
	}
	if err := mountsApart(); err != nil {
		return "", err
	}
	err = mountFile(target, cfg.resolvConf(host), cover)
	if lacks && err != nil {
		return missing(path), nil
	}
	return "", err
}

// missing says what to do about a file that does not exist.
func missing(path string) string {
	if to, err := os.Readlink(path); err == nil {
		return fmt.Sprintf("%s leads to %s, which does not exist, so the command has no name server; create that (empty is enough)", path, to)
	}
	return fmt.Sprintf("%s does not exist, so the command has no name server; create it (empty is enough)", path)
}

// mountFile covers target with a new file in memory. Its file system needs a directory to be
// mounted on for a moment; only this process sees it there.
func mountFile(target string, content []byte, cover func(place, target string) error) error {
	place, err := placeBeside(target)
	if err != nil {
		return err
	}
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if err := unix.Mount("tmpfs", place, "tmpfs", flags, "size=64k,mode=755"); err != nil {
		return fmt.Errorf("mount tmpfs: %w", err)
	}
	if err = os.WriteFile(filepath.Join(place, confName), content, 0o644); err != nil {
		err = fmt.Errorf("write resolv.conf: %w", errnoOf(err))
	} else {
		err = cover(place, target)
	}
	if e := unix.Unmount(place, unix.MNT_DETACH); err == nil && e != nil {
		err = fmt.Errorf("unmount tmpfs: %w", e)
	}
	return err
}

// confName is the new file's name.
const confName = "resolv.conf"

// coverFile mounts the new file over target.
func coverFile(place, target string) error {
	if err := unix.Mount(filepath.Join(place, confName), target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount over %s: %w", target, err)
	}
	return nil
}

// coverDir shows the directory target with the new file added.
func coverDir(place, target string) error {
	if err := unix.Mount("overlay", target, "overlay", unix.MS_RDONLY, "lowerdir="+place+":"+target); err != nil {
		return fmt.Errorf("mount over %s: %w", target, err)
	}
	return nil
}

// placeBeside finds a directory to mount on that neither is nor contains target.
func placeBeside(target string) (string, error) {
	for _, dir := range [...]string{"/tmp", "/run", "/var", "/mnt", "/dev"} {
		real, err := filepath.EvalSymlinks(dir)
		if err != nil || strings.HasPrefix(target+"/", real+"/") {
			continue
		}
		return real, nil
	}
	return "", errors.New("mount resolv.conf: no directory to mount on: none of /tmp, /run, /var, /mnt and /dev exists")
}
