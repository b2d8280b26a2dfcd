package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	envStage   = "EPIPHYTE_INTEROP_STAGE"
	envHelper  = "EPIPHYTE_INTEROP_HELPER"
	envPattern = "EPIPHYTE_INTEROP_CHECKS"

	stageInit    = "init"
	stageRunner  = "runner"
	stageNothing = "nothing" // only shows that a stage can be started

	resultsFD = 3 // where a runner reports results, one JSON object each
)

// stage is this program again, in namespaces of its own.
func stage(name string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe")
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), envStage+"="+name)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS,
		Pdeathsig:  unix.SIGKILL,
	}
	return cmd
}

// onMachine runs the checks with one helper in new namespaces.
func onMachine(helper, pattern string) (map[string]result, error) {
	helper, err := filepath.Abs(helper)
	if err != nil {
		return nil, err
	}
	if err := unix.Access(helper, unix.X_OK); err != nil {
		return nil, fmt.Errorf("%w (make build, or apt-get install slirp4netns)", err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	// Pdeathsig is sent when the forking thread ends, not the process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := stage(stageInit)
	cmd.Env = append(cmd.Env, envHelper+"="+helper, envPattern+"="+pattern)
	cmd.ExtraFiles = []*os.File{w}
	// With process 1 everything ends, so whoever interrupts us needs no more.
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer signal.Stop(signals)
	err = cmd.Start()
	w.Close()
	if err != nil {
		return nil, fmt.Errorf("make namespaces: %w", err)
	}
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		select {
		case <-signals:
			_ = cmd.Process.Kill() // it may have ended already
		case <-ended:
		}
	}()
	results, err := readResults(r)
	return results, errors.Join(err, cmd.Wait())
}

// initStage is process 1: it starts the runner and collects whatever dies.
func initStage() (int, error) {
	if err := os.Setenv(envStage, stageRunner); err != nil {
		return 1, err
	}
	// A new /proc first: the old one shows other processes under our numbers.
	if err := mounts(); err != nil {
		return 1, err
	}
	pid, err := syscall.ForkExec("/proc/self/exe", os.Args, &syscall.ProcAttr{
		Env:   os.Environ(),
		Files: []uintptr{0, 1, 2, resultsFD},
	})
	if err != nil {
		return 1, fmt.Errorf("start runner: %w", err)
	}
	unix.Close(resultsFD)
	for {
		var ws unix.WaitStatus
		dead, err := unix.Wait4(-1, &ws, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 1, fmt.Errorf("wait for runner: %w", err)
		case dead == pid && ws.Signaled():
			return 1, fmt.Errorf("runner: %v", ws.Signal())
		case dead == pid:
			return ws.ExitStatus(), nil
		}
	}
}

// runner makes the machine, runs the checks and reports. Its exit status says
// whether it could; how the checks ended is in the results.
func runner() (int, error) {
	unix.CloseOnExec(resultsFD)
	report := json.NewEncoder(os.NewFile(resultsFD, "results"))
	chosen, err := choose(os.Getenv(envPattern))
	if err != nil {
		return 1, err
	}
	m, err := newMachine(os.Getenv(envHelper))
	if err != nil {
		return 1, fmt.Errorf("make machine: %w", err)
	}
	defer m.close()
	return 0, m.runAll(chosen, func(r result) error {
		r.print(os.Stdout)
		return report.Encode(r)
	})
}
