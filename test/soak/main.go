package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/test/harness"
)

// options are what the user asked for, by variables of the environment.
type options struct {
	length time.Duration // of the load; SOAK
	seed   uint64        // SEED
	plot   int           // a descriptor, as the runner may not open the file; WRITE
}

// envPlot hands the plot's descriptor on to the stages that follow.
const envPlot = "EPIPHYTE_SOAK_PLOT"

func main() {
	o, err := parse(os.Getenv)
	if err == nil && o.plot < 0 && os.Getenv("WRITE") != "" {
		// Not close-on-exec: the descriptor goes through two further executions.
		o.plot, err = unix.Open(os.Getenv("WRITE"), unix.O_WRONLY|unix.O_CREAT, 0o644)
	}
	if err == nil {
		err = os.Unsetenv(harness.EnvHelper) // others have no such options
	}
	if err == nil {
		// All stages have one seed.
		for k, v := range map[string]string{"SEED": fmt.Sprint(o.seed), envPlot: strconv.Itoa(o.plot)} {
			if err == nil {
				err = os.Setenv(k, v)
			}
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(2)
	}
	os.Exit(harness.Run(func(e *harness.Env) int {
		err := bounded(e, o)
		if err == nil {
			err = e.Leaks()
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "soak:", err)
			return 1
		}
		return 0
	}))
}

func parse(getenv func(string) string) (o options, err error) {
	o = options{length: 10 * time.Minute, seed: rand.Uint64N(1e6), plot: -1}
	if v := getenv("SOAK"); v != "" {
		if o.length, err = time.ParseDuration(v); err != nil {
			return o, fmt.Errorf("read SOAK: %w", err)
		}
		if o.length < shortest {
			return o, fmt.Errorf("SOAK=%v is too short to tell anything: %v at least", o.length, shortest)
		}
	}
	if v := getenv("SEED"); v != "" {
		if o.seed, err = strconv.ParseUint(v, 10, 64); err != nil {
			return o, fmt.Errorf("read SEED: %w", err)
		}
	}
	if v := getenv(envPlot); v != "" {
		if o.plot, err = strconv.Atoi(v); err != nil {
			return o, fmt.Errorf("read %s: %w", envPlot, err)
		}
	}
	return o, nil
}

// shortest is a load with some samples in each quarter.
const shortest = 20 * time.Second

// bounded is a run that a signal ends.
func bounded(e *harness.Env, o options) error {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	if o.plot >= 0 {
		unix.CloseOnExec(o.plot)
	}
	fmt.Printf("soak: %v of load; SEED=%d repeats it\n", o.length, o.seed)
	r, err := soak(ctx, e, o, os.Stdout)
	if r != nil {
		fmt.Print(r.table())
		for _, text := range r.wrong() {
			fmt.Printf("WRONG: %s\n", text)
		}
	}
	if err != nil {
		return err
	}
	if o.plot >= 0 {
		return replace(os.NewFile(uintptr(o.plot), "plot"), r.plot())
	}
	return nil
}

// replace writes a file anew.
func replace(f *os.File, text string) error {
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err := f.WriteAt([]byte(text), 0)
	return errors.Join(err, f.Close())
}
