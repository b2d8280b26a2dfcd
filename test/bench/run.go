package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"epiphyte/test/harness"
)

// sample is one measurement, and one line of JSON.
type sample struct {
	Time    time.Time `json:"time"`
	Row     string    `json:"row"`
	Round   int       `json:"round"` // from 0; the same round is one moment for all peers
	Peer    string    `json:"peer"`
	Version string    `json:"version,omitempty"`
	Values  values    `json:"values,omitempty"`
	Failed  string    `json:"failed,omitempty"` // why there are no values
}

// sampleLimit bounds one sample, whatever hangs.
const sampleLimit = 2 * time.Minute

// run measures and prints.
func run(ctx context.Context, e *harness.Env, o options, out outputs) error {
	rows, err := selectRows(o)
	if err != nil {
		return err
	}
	peers, err := parsePeers(o.peers)
	if err != nil {
		return err
	}
	if err := descriptorLimit(); err != nil {
		return fmt.Errorf("raise descriptor limit: %w", err)
	}
	for i := range peers {
		peers[i].find(e.Binary)
	}
	if err := errors.Join(subordinateIDs(), nameResolver(), nameUser()); err != nil {
		return err
	}
	b := &bench{env: e, options: o, peers: peers, rows: rows, begin: time.Now()}
	if err := b.rounds(ctx, rows, 0, out.json); err != nil {
		return err
	}
	if o.quick {
		// A machine that was busy for a while is given another chance.
		if again := b.below(); len(again) > 0 {
			if err := b.rounds(ctx, again, o.rounds, out.json); err != nil {
				return err
			}
		}
	}
	section := b.report()
	fmt.Print(section)
	if err := out.document(b, section); err != nil {
		return err
	}
	if rows := b.below(); o.quick && len(rows) > 0 {
		return fmt.Errorf("below the recorded floor: %s", names(rows))
	}
	return nil
}

// rounds measures rows as often as asked for; the first round has the number
// given.
func (b *bench) rounds(ctx context.Context, rows []row, first int, log *os.File) error {
	for round := range b.options.rounds {
		for i, r := range rows {
			if err := b.measure(ctx, r, first+round, round+i, log); err != nil {
				return err
			}
		}
	}
	return nil
}

// below are the rows that miss a recorded floor, or of ours have no figure. A
// peer that has none cannot be compared with.
func (b *bench) below() []row {
	var missed []string
	for _, o := range b.judge(floors()) {
		ours := figures(b.samples, o.row, b.peers[0].Label, o.key)
		if o.N > 0 && !o.met(o.floor) || len(ours) == 0 {
			missed = append(missed, o.row)
		}
	}
	return slices.DeleteFunc(slices.Clone(b.rows), func(r row) bool { return !slices.Contains(missed, r.name) })
}

func names(rows []row) string {
	var list []string
	for _, r := range rows {
		list = append(list, r.name)
	}
	return strings.Join(list, ", ")
}

// bench is one run.
type bench struct {
	env     *harness.Env
	options options
	peers   []peer
	rows    []row
	begin   time.Time
	samples []sample

	recorded bool // by earlier runs
}

// measure takes the samples of a row in a round, one peer after the other,
// starting with peer turn.
func (b *bench) measure(ctx context.Context, r row, round, turn int, log *os.File) error {
	times := 1
	if r.samples > 0 {
		times = (r.samples + b.options.rounds - 1) / b.options.rounds
	}
	for again := range times {
		for i := range b.peers {
			p := b.peers[(turn+again+i)%len(b.peers)]
			if p.Missing != "" || !p.takes(r) {
				continue
			}
			s := sample{Time: time.Now().UTC(), Row: r.name, Round: round*times + again, Peer: p.Label, Version: p.Version}
			v, err := b.one(ctx, r, p)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			s.Values = v
			if err != nil {
				s.Values, s.Failed = nil, oneLine(err.Error())
			}
			b.samples = append(b.samples, s)
			fmt.Fprintf(os.Stderr, "%6.1fs round %d %-18s %-14s %s\n",
				time.Since(b.begin).Seconds(), s.Round, r.name, p.Label, s.summary(r))
			if log != nil {
				if err := json.NewEncoder(log).Encode(s); err != nil {
					return fmt.Errorf("write sample: %w", err)
				}
			}
		}
	}
	return nil
}

// one takes one sample in a scene of its own.
func (b *bench) one(ctx context.Context, r row, p peer) (values, error) {
	ctx, cancel := context.WithTimeout(ctx, sampleLimit)
	defer cancel()
	if err := r.missing(); err != nil {
		return nil, err
	}
	s, err := newScene(b.env, p.facing(r), r.mtu)
	if err != nil {
		return nil, err
	}
	defer s.close()
	if err := s.arrange(r); err != nil {
		return nil, err
	}
	if !r.starts {
		if err := s.start(ctx); err != nil {
			return nil, err
		}
		if err := s.helper.pin(r.cpus); err != nil {
			return nil, err
		}
	}
	v, err := r.run(ctx, s, b.options.window)
	if err == nil && s.helper != nil {
		err = s.helper.alive()
	}
	return v, err
}

// summary is for whoever watches.
func (s sample) summary(r row) string {
	if s.Failed != "" {
		return "failed: " + s.Failed
	}
	var parts []string
	for _, m := range r.metrics {
		if v, ok := s.Values[m.key]; ok && !(m.helpers && v == 0) {
			parts = append(parts, fmt.Sprintf("%.*f %s", m.digits, v, m.unit))
		}
	}
	return strings.Join(parts, ", ")
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
