// Command probe confines itself as the program does, and then tries what a subverted program
// would. It is for the tests of package sandbox, and is never installed.
//
//	probe [OPTION]... ATTEMPT
//
// # Theory of operation
//
// Each attempt is one process, because a refusal may end it. The first line of its output
// says that it is confined; then comes "done", or the name of the errno with which the
// attempt failed.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"

	"epiphyte/internal/sandbox"
)

func main() {
	// The first thread makes the attempts: if another one asks to be traced, waiting for
	// the process does not wait for that thread.
	runtime.LockOSThread()
	off := flag.Bool("off", false, "do not confine")
	child := flag.Bool("child", false, "start a child that may be signalled")
	read := flag.String("read", "", "keep the file `PATH` readable")
	remove := flag.String("remove", "", "keep the file `PATH` removable")
	own := flag.String("own", "", "keep the directory `PATH` writable")
	interfaces := flag.Bool("interfaces", false, "keep addresses of interfaces readable")
	flag.Parse()

	p := probe{path: flag.Arg(1)}
	cfg := sandbox.Config{RequireFiles: true, RequireCalls: true, Interfaces: *interfaces}
	if *read != "" {
		cfg.Read = []string{*read}
	}
	if *remove != "" {
		cfg.Remove = []string{*remove}
	}
	if *own != "" {
		cfg.Own = []string{*own}
	}
	if *child {
		p.child = exec.Command("sleep", "60")
		p.child.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
		if err := p.child.Start(); err != nil {
			panic(err)
		}
		cfg.Children = []*os.Process{p.child.Process}
	}
	var silent [2]int // a pipe into which nobody writes
	if err := unix.Pipe2(silent[:], unix.O_CLOEXEC); err != nil {
		panic(err)
	}
	if !*off {
		if err := sandbox.Confine(cfg); err != nil {
			fmt.Println(err)
			os.Exit(2)
		}
	}
	fmt.Println("confined")
	try, ok := p.attempts()[flag.Arg(0)]
	if !ok {
		panic("no such attempt")
	}
	// The Go runtime starts threads while others are in system calls, as in the program.
	// These threads block until the probe ends.
	var blocked sync.WaitGroup
	for range 8 {
		blocked.Add(1)
		go func() {
			blocked.Done()
			unix.Read(silent[0], make([]byte, 1))
		}()
	}
	blocked.Wait()
	err := try()
	var errno unix.Errno
	switch {
	case err == nil:
		fmt.Println("done")
	case errors.As(err, &errno):
		fmt.Println(unix.ErrnoName(errno))
	default:
		fmt.Println(err)
	}
}
