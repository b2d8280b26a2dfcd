package sandbox

import (
	"fmt"
	"log/slog"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/internal/seccomp"
)

// Config says what is still needed. The zero value is a program that moves packets
// between descriptors that are open and sockets of the internet.
type Config struct {
	// Read are files to be read, even if they are replaced, or their symbolic links are
	// replaced by links to other files in the same directories.
	Read []string
	// ReadIn are directories whose files are to be read, and listed.
	ReadIn []string
	// Remove are files to be removed at the end.
	Remove []string
	// Own are the program's own directories: it reads, makes, replaces and removes files in
	// them, and in the end removes the directories, if they are empty.
	Own []string
	// Connect are Unix sockets to be connected to.
	Connect []string
	// Overwrite permits overwriting and shortening open files: the log.
	Overwrite bool
	// Interfaces permits asking the kernel for the addresses of the host's interfaces.
	Interfaces bool
	// Devices permits taking over TAPs that other processes have opened.
	Devices bool
	// User to become; nil: the user stays the same.
	User *User
	// Children may be signalled.
	Children []*os.Process
	// RequireFiles and RequireCalls make it an error that the kernel cannot
	// restrict files or system calls.
	RequireFiles, RequireCalls bool
	Logger                     *slog.Logger // nil: the default one
}

// Confine restricts the program, which must be built without cgo. It is called once,
// and some of it may have been done when it fails.
func Confine(cfg Config) error {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	_, _ = time.Now().Zone() // reads the time zone's files, which log lines need later
	// The numbers of descriptors and processes that filters compare are fixed now.
	calls, err := cfg.filter()
	if err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("confine: forbid core dumps: %w", err)
	}
	if cfg.User != nil {
		if err := cfg.User.become(); err != nil {
			return fmt.Errorf("confine: %w", err)
		}
	}
	if err := dropCapabilities(); err != nil {
		return fmt.Errorf("confine: %w", err)
	}
	if err := cfg.settle("files", cfg.RequireFiles, cfg.restrictFiles()); err != nil {
		return err
	}
	program, err := calls.Build()
	if err == nil {
		err = seccomp.Install(program)
	}
	return cfg.settle("system calls", cfg.RequireCalls, err)
}

// settle decides what to do about a layer that the kernel does not have.
func (cfg *Config) settle(layer string, required bool, err error) error {
	if err == nil {
		return nil
	}
	err = fmt.Errorf("confine %s: %w", layer, err)
	if required {
		return err
	}
	cfg.Logger.Info("this kernel does not let the program be confined in full", "error", err)
	return nil
}
