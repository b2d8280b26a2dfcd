package netdef

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// Paths are the directories of networks: Runtime of what runs, Config of definitions.
type Paths struct{ Runtime, Config string }

// DefaultPaths are the user's own: Runtime is epiphyte/networks below XDG_RUNTIME_DIR
// or else /run/user/UID, and where there is neither, networks in a directory named
// after the user in the directory for temporary files; Config is epiphyte/networks
// below XDG_CONFIG_HOME or else ~/.config. Root's are below /run instead of
// /run/user/0, which exists only while root is logged in. Runtime exists when it returns, and
// nobody else may enter it; Config need not exist.
func DefaultPaths() (Paths, error) {
	config, err := configDir()
	if err != nil {
		return Paths{}, fmt.Errorf("find the definitions of networks: %w", err)
	}
	private, err := runtimeDir()
	if err != nil {
		return Paths{}, fmt.Errorf("find the directory of running networks: %w", err)
	}
	p := Paths{Runtime: filepath.Join(private, "networks"), Config: filepath.Join(config, "epiphyte", "networks")}
	if err := os.Mkdir(p.Runtime, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return Paths{}, fmt.Errorf("make the directory of running networks: %w", err)
	}
	return p, nil
}

// GuestsDir is the directory for the sockets of running guests that are no members of
// networks. It is made if need be, with mode 0700.
func GuestsDir() (string, error) {
	private, err := runtimeDir()
	if err != nil {
		return "", fmt.Errorf("find the directory of running guests: %w", err)
	}
	dir := filepath.Join(private, "guests")
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("make the directory of running guests: %w", err)
	}
	return dir, nil
}

// runtimeDir is the program's own directory for what lives as long as a process.
func runtimeDir() (string, error) {
	return privateDir(os.Getenv("XDG_RUNTIME_DIR"), "/run", os.TempDir())
}

// configDir is the user's directory for configuration. Services of the system need not
// have HOME.
func configDir() (string, error) {
	dir, err := os.UserConfigDir()
	if err == nil {
		return dir, nil
	}
	if u, userErr := user.Current(); userErr == nil && filepath.IsAbs(u.HomeDir) {
		return filepath.Join(u.HomeDir, ".config"), nil
	}
	return "", err
}

// privateDir makes the program's own directory in the first of these places: the
// directory named by XDG_RUNTIME_DIR, the user's below run, temporary files.
func privateDir(xdg, run, temp string) (string, error) {
	uid := strconv.Itoa(os.Getuid())
	dir := filepath.Join(temp, "epiphyte-"+uid)
	own := filepath.Join(run, "user", uid)
	if os.Getuid() == 0 && (xdg == "" || xdg == own) && checkOwned(run) == nil {
		dir = filepath.Join(run, "epiphyte")
	} else if xdg != "" {
		if err := checkOwned(xdg); err != nil {
			return "", fmt.Errorf("%w (set XDG_RUNTIME_DIR to a directory of yours, or unset it)", err)
		}
		dir = filepath.Join(xdg, "epiphyte")
	} else if checkOwned(own) == nil {
		dir = filepath.Join(own, "epiphyte")
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	return dir, checkPrivate(dir)
}

// checkPrivate returns an error for a directory that is not ours or that others may enter. It
// does not follow a link: in the directory for temporary files anybody can make one.
func checkPrivate(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	if err := owned(dir, info); err != nil {
		return err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("%s is open to others (mode %04o): chmod 700 it", dir, info.Mode().Perm())
	}
	return nil
}

// checkOwned returns an error for a directory that is not the user's.
func checkOwned(dir string) error {
	if !filepath.IsAbs(dir) {
		return fmt.Errorf("%s is a relative path", dir)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	return owned(dir, info)
}

func owned(dir string, info fs.FileInfo) error {
	if !info.IsDir() {
		return fmt.Errorf("%s is not a directory", dir)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !ok || int(st.Uid) != os.Getuid() {
		return fmt.Errorf("%s belongs to another user", dir)
	}
	return nil
}

// Running is the directory of the definitions of running networks, with the subnets that they
// have chosen, in the same form as users' definitions.
func (p Paths) Running() Paths { return Paths{Runtime: p.Runtime, Config: p.Runtime} }

// Socket is where members join the network.
func (p Paths) Socket(name string) string { return filepath.Join(p.Runtime, name+".sock") }

// API is the socket of the network's control interface.
func (p Paths) API(name string) string { return filepath.Join(p.Runtime, name+".api") }

// Lock is the file that the network's process locks.
func (p Paths) Lock(name string) string { return filepath.Join(p.Runtime, name+".lock") }

// MembersSuffix ends the name of a file of members.
const MembersSuffix = ".members"

// Members is the file in which a running network lists its members.
func (p Paths) Members(name string) string { return filepath.Join(p.Runtime, name+MembersSuffix) }

// Log is the log of the network's process.
func (p Paths) Log(name string) string { return filepath.Join(p.Runtime, name+".log") }

// File is the file of the network's definition.
func (p Paths) File(name string) string { return filepath.Join(p.Config, name+extension) }
