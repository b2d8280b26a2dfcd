package namespace

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// resolvConf is the command's resolv.conf(5): our name servers, with the search
// list and options of the host's file, which name what they mean on the host's
// network too.
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

// HostSearch is the search list of the resolv.conf(5) at path, empty if there is none. Domains
// have no final dot; what is none is left out.
func HostSearch(path string) []string {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	search, _ := parseResolvConf(text)
	var list []string
	for _, domain := range keepFirst(search) {
		// The root says that there is no list (systemd-resolved).
		if _, ok := dns.IsDomainName(domain); ok && domain != "." {
			list = append(list, strings.TrimSuffix(domain, "."))
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

// keepFirst drops domains that came before in the list, which would be asked for
// twice.
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

// mountResolvConf puts our file over the one that path leads to, in this mount
// namespace only. A path that leads nowhere cannot be mounted over: that is a
// warning, for the command may not need names.
func (cfg Config) mountResolvConf(path string) (warning string, err error) {
	host, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return missing(path), nil
	}
	// A file that may not be read is still mounted over.
	target, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", fmt.Errorf("find %s: %w", path, errnoOf(err))
	}
	if err := mountsApart(); err != nil {
		return "", err
	}
	return "", mountFile(target, cfg.resolvConf(host))
}

// missing says what to do about a file that does not exist.
func missing(path string) string {
	if to, err := os.Readlink(path); err == nil {
		return fmt.Sprintf("%s leads to %s, which does not exist, so the command has no name server; create that (empty is enough)", path, to)
	}
	return fmt.Sprintf("%s does not exist, so the command has no name server; create it (empty is enough)", path)
}

// mountFile mounts a new file in memory over target. The file system that holds
// it needs a directory to be mounted on for a moment; only this process sees it
// there.
func mountFile(target string, content []byte) error {
	place, err := placeBeside(target)
	if err != nil {
		return err
	}
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if err := unix.Mount("tmpfs", place, "tmpfs", flags, "size=64k,mode=755"); err != nil {
		return fmt.Errorf("mount tmpfs: %w", err)
	}
	err = coverFile(filepath.Join(place, "resolv.conf"), target, content)
	if e := unix.Unmount(place, unix.MNT_DETACH); err == nil && e != nil {
		err = fmt.Errorf("unmount tmpfs: %w", e)
	}
	return err
}

func coverFile(file, target string, content []byte) error {
	if err := os.WriteFile(file, content, 0o644); err != nil {
		return fmt.Errorf("write resolv.conf: %w", errnoOf(err))
	}
	if err := unix.Mount(file, target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount over %s: %w", target, err)
	}
	return nil
}

// placeBeside finds a directory to mount on that does not contain target.
func placeBeside(target string) (string, error) {
	for _, dir := range [...]string{"/tmp", "/run", "/var", "/mnt", "/dev"} {
		real, err := filepath.EvalSymlinks(dir)
		if err != nil || strings.HasPrefix(target, real+"/") {
			continue
		}
		return real, nil
	}
	return "", errors.New("mount resolv.conf: no directory to mount on: none of /tmp, /run, /var, /mnt and /dev exists")
}
