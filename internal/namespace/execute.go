package namespace

import (
	"errors"
	"fmt"
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

// execute becomes the command. It returns only when that fails, with the exit
// status, after one line on stderr, which speaker says.
//
// The Go runtime's signal handlers go away with execve, and it restores the
// limit of open files that it raised for itself.
func execute(argv []string, login bool, speaker string) int {
	path, err := exec.LookPath(argv[0])
	if errors.Is(err, exec.ErrDot) {
		// PATH has the current directory in it because the user wants it so.
		err = nil
	}
	if login {
		argv = append([]string{"-" + filepath.Base(argv[0])}, argv[1:]...)
	}
	if err == nil {
		err = syscall.Exec(path, argv, os.Environ())
		if err == syscall.ENOEXEC {
			// A script without a first line is the shell's, as execvp(3) has it.
			err = syscall.Exec("/bin/sh", append([]string{"/bin/sh", path}, argv[1:]...), os.Environ())
		}
	}
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, os.ErrNotExist) {
		fmt.Fprintf(os.Stderr, "%s: %s: command not found\n", speaker, argv[0])
		return statusNotFound
	}
	fmt.Fprintf(os.Stderr, "%s: cannot execute %s: %v\n", speaker, argv[0], errnoOf(err))
	return statusNotExecutable
}
