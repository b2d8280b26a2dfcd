package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/test/harness"
)

// options are what the user asked for.
type options struct {
	rows, peers string
	rounds      int // 0: as many as the form has
	window      time.Duration
	quick       bool
	jsonPath    string
	docPath     string
	from        string // samples to report instead of measuring
}

func main() {
	if spec := os.Getenv(envGenerator); spec != "" {
		fmt.Fprintln(os.Stderr, generate(spec))
		os.Exit(1) // a generator ends by being killed
	}
	o, err := parse(os.Args[1:], os.Getenv)
	if errors.Is(err, flag.ErrHelp) {
		os.Exit(0)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(2)
	}
	if o.from != "" {
		if err := replay(o, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	svg, err := openOutputs(o)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(2)
	}
	// Our column is ours: another helper is a peer.
	if err := os.Unsetenv(harness.EnvHelper); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(2)
	}
	code := harness.Run(func(e *harness.Env) int {
		err := bounded(e, o)
		if err == nil {
			err = e.Leaks()
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			return 1
		}
		return 0
	})
	if svg != nil {
		if err := savePictures(svg, o.docPath); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			code = max(code, 1)
		}
	}
	os.Exit(code)
}

// bounded is a run that a signal ends.
func bounded(e *harness.Env, o options) error {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	out, err := inheritOutputs()
	if err != nil {
		return err
	}
	return run(ctx, e, o, out)
}

// parse reads flags, whose defaults are variables of the environment, as make
// hands them on: make bench ROWS=... PEERS=... ROUNDS=... QUICK=1.
func parse(args []string, getenv func(string) string) (options, error) {
	o := options{quick: getenv("QUICK") != ""}
	if v := getenv("ROUNDS"); v != "" {
		if _, err := fmt.Sscan(v, &o.rounds); err != nil {
			return o, fmt.Errorf("parse ROUNDS=%s: %w", v, err)
		}
	}
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.StringVar(&o.rows, "rows", getenv("ROWS"), "`patterns` or groups (goals, growth, floors) of rows to measure, comma-separated: 'tcp-*,rtt-*' (default: all that are not extra)")
	fs.StringVar(&o.peers, "peers", getenv("PEERS"), "`peers`, comma-separated: KIND or KIND-LABEL=PATH [ARG]..., kinds "+strings.Join(kinds(), ", "))
	fs.IntVar(&o.rounds, "rounds", o.rounds, "`number` of rounds (default: 3, quick 5)")
	fs.DurationVar(&o.window, "window", 0, "`time` for which a workload is measured once it runs (default: 1s, quick 300ms)")
	fs.BoolVar(&o.quick, "quick", o.quick, "a few rows in short windows, and an error if a ratio is below its recorded floor")
	fs.StringVar(&o.jsonPath, "json", getenv("JSON"), "append one JSON line per sample to `file`")
	fs.StringVar(&o.docPath, "write", getenv("WRITE"), "replace the generated section of the markdown `file`")
	fs.StringVar(&o.from, "from", getenv("FROM"), "measure nothing, and report the samples that -json has put into `file`")
	list := fs.Bool("list", false, "list the rows and exit")
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	if fs.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", fs.Arg(0))
	}
	if o.rounds < 0 || o.window < 0 {
		return o, errors.New("rounds and window must be positive")
	}
	o.fill()
	if *list {
		listRows(os.Stdout)
		return o, flag.ErrHelp
	}
	if _, err := selectRows(o); err != nil {
		return o, err
	}
	_, err := parsePeers(o.peers)
	return o, err
}

// fill puts in what the user has left open.
func (o *options) fill() {
	rounds, window, peers, rows := 3, time.Second, defaultPeers, ""
	if o.quick {
		rounds, window, peers, rows = 5, 300*time.Millisecond, quickPeers, "floors"
	}
	o.rounds = cmp.Or(o.rounds, rounds)
	o.window = cmp.Or(o.window, window)
	o.peers = cmp.Or(o.peers, peers)
	o.rows = cmp.Or(o.rows, rows)
}
