// Command completions writes the completions of a built program for bash, zsh and fish:
//
//	go run ./packaging/completions PROGRAM DIRECTORY
//
// # Theory of operation
//
// See package completion. The files have the names that the shells look for: NAME, _NAME
// and NAME.fish.
package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"epiphyte/internal/completion"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "Usage: completions PROGRAM DIRECTORY")
		os.Exit(2)
	}
	if err := write(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "completions:", err)
		os.Exit(1)
	}
}

func write(program, dir string) error {
	name := filepath.Base(program)
	p, err := completion.Read(name, func(args ...string) (string, error) {
		text, err := exec.Command(program, args...).Output()
		return string(text), err
	})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for file, text := range map[string]string{name: p.Bash(), "_" + name: p.Zsh(), name + ".fish": p.Fish()} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}
