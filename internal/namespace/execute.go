package namespace

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

// Exit statuses of a shell for a command that it cannot execute (POSIX.1, Shell
// Command Language, 2.8.2).
const (
	statusNotExecutable = 126
	statusNotFound      = 127
)

// execute becomes the command. It returns only if that fails, with the exit status, after one
// line on stderr that begins with speaker.
//
// The Go runtime's signal handlers go away with execve, and it restores the
// limit of open files that it raised for itself.
func execute(argv []string, login bool, speaker string) int {
	path, err := exec.LookPath(argv[0])
	if errors.Is(err, exec.ErrDot) {
		// The user has put the current directory into PATH.
		err = nil
	}
	if login {
		argv = append([]string{"-" + filepath.Base(argv[0])}, argv[1:]...)
	}
	if err == nil {
		err = syscall.Exec(path, argv, os.Environ())
		if err == syscall.ENOEXEC {
			// The shell runs a script without a "#!" line, as in execvp(3).
			err = syscall.Exec("/bin/sh", append([]string{"/bin/sh", path}, argv[1:]...), os.Environ())
		}
	}
	if notFound(err) {
		return sayNotFound(os.Stderr, argv[0], speaker)
	}
	fmt.Fprintf(os.Stderr, "%s: cannot execute %s: %v\n", speaker, argv[0], errnoOf(err))
	return statusNotExecutable
}

// Missing looks for a command before anything is made for it. If there is none it says so on
// w, as speaker, and returns the exit status, else 0.
func Missing(w io.Writer, command, speaker string) (status int) {
	if _, err := exec.LookPath(command); notFound(err) {
		return sayNotFound(w, command, speaker)
	}
	return 0
}

func notFound(err error) bool {
	return errors.Is(err, exec.ErrNotFound) || errors.Is(err, os.ErrNotExist)
}

func sayNotFound(w io.Writer, command, speaker string) int {
	fmt.Fprintf(w, "%s: %s: command not found\n", speaker, command)
	return statusNotFound
}
