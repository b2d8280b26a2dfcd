package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
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
	rounds      int
	window      time.Duration
	quick       bool
	jsonPath    string
	docPath     string
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
	if err := openOutputs(o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(2)
	}
	// Our column is ours: another helper is a peer.
	if err := os.Unsetenv(harness.EnvHelper); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(2)
	}
	os.Exit(harness.Run(func(e *harness.Env) int {
		err := bounded(e, o)
		if err == nil {
			err = e.Leaks()
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			return 1
		}
		return 0
	}))
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
	o := options{rounds: 3, quick: getenv("QUICK") != ""}
	if v := getenv("ROUNDS"); v != "" {
		if _, err := fmt.Sscan(v, &o.rounds); err != nil {
			return o, fmt.Errorf("parse ROUNDS=%s: %w", v, err)
		}
	}
	peers := getenv("PEERS")
	if peers == "" {
		peers = defaultPeers
	}
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.StringVar(&o.rows, "rows", getenv("ROWS"), "`patterns` of rows to measure, comma-separated: 'tcp-*,rtt-*' (default: all that are not extra)")
	fs.StringVar(&o.peers, "peers", peers, "`peers`, comma-separated: KIND or KIND-LABEL=PATH [ARG]..., kinds "+strings.Join(kinds(), ", "))
	fs.IntVar(&o.rounds, "rounds", o.rounds, "`number` of rounds")
	fs.DurationVar(&o.window, "window", time.Second, "`time` for which a workload is measured once it runs")
	fs.BoolVar(&o.quick, "quick", o.quick, "one round of short windows: whether it works, not how fast")
	fs.StringVar(&o.jsonPath, "json", getenv("JSON"), "append one JSON line per sample to `file`")
	fs.StringVar(&o.docPath, "write", getenv("WRITE"), "replace the generated section of the markdown `file`")
	list := fs.Bool("list", false, "list the rows and exit")
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	if fs.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", fs.Arg(0))
	}
	if o.rounds < 1 || o.window <= 0 {
		return o, errors.New("rounds and window must be positive")
	}
	if o.quick {
		o.rounds, o.window = 1, min(o.window, 300*time.Millisecond)
	}
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

// outputs are files that the user's own uid has opened: the runner's may not.
type outputs struct {
	json *os.File // nil: none
	doc  *os.File // nil: none
}

const envOutputs = "EPIPHYTE_BENCH_OUTPUTS"

// openOutputs opens the files in the first stage of this program; it does
// nothing in the stages that follow, which inherit them.
func openOutputs(o options) (err error) {
	if os.Getenv(envOutputs) != "" {
		return nil
	}
	jsonFD, docFD := -1, -1
	// Not close-on-exec: the descriptors go through two further executions.
	if o.jsonPath != "" {
		if jsonFD, err = unix.Open(o.jsonPath, unix.O_WRONLY|unix.O_CREAT|unix.O_APPEND, 0o644); err != nil {
			return fmt.Errorf("open %s: %w", o.jsonPath, err)
		}
	}
	if o.docPath != "" {
		if docFD, err = unix.Open(o.docPath, unix.O_RDWR, 0); err != nil {
			return fmt.Errorf("open %s: %w", o.docPath, err)
		}
	}
	return os.Setenv(envOutputs, fmt.Sprintf("%d %d", jsonFD, docFD))
}

// inheritOutputs takes the files over in the runner and keeps them from what
// it starts.
func inheritOutputs() (out outputs, err error) {
	var jsonFD, docFD int
	if _, err := fmt.Sscanf(os.Getenv(envOutputs), "%d %d", &jsonFD, &docFD); err != nil {
		return out, fmt.Errorf("parse %s: %w", envOutputs, err)
	}
	if jsonFD >= 0 {
		unix.CloseOnExec(jsonFD)
		out.json = os.NewFile(uintptr(jsonFD), "samples")
	}
	if docFD >= 0 {
		unix.CloseOnExec(docFD)
		out.doc = os.NewFile(uintptr(docFD), "document")
	}
	return out, nil
}

// rewrite replaces the generated section of a document.
func rewrite(f *os.File, section string) error {
	old, err := io.ReadAll(f)
	if err != nil {
		return fmt.Errorf("read document: %w", err)
	}
	text, err := replaceSection(string(old), section)
	if err != nil {
		return err
	}
	if err := f.Truncate(int64(len(text))); err != nil {
		return fmt.Errorf("write document: %w", err)
	}
	if _, err := f.WriteAt([]byte(text), 0); err != nil {
		return fmt.Errorf("write document: %w", err)
	}
	return f.Close()
}
