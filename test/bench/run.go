package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
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
	if err := errors.Join(subordinateIDs(), nameResolver()); err != nil {
		return err
	}
	b := &bench{env: e, options: o, peers: peers, rows: rows, begin: time.Now()}
	for round := range o.rounds {
		for i, r := range rows {
			if err := b.measure(ctx, r, round, round+i, out.json); err != nil {
				return err
			}
		}
	}
	section := b.report()
	fmt.Print(section)
	if out.doc != nil {
		return rewrite(out.doc, section)
	}
	return nil
}

// bench is one run.
type bench struct {
	env     *harness.Env
	options options
	peers   []peer
	rows    []row
	begin   time.Time
	samples []sample
}

// measure takes the samples of a row in a round, one peer after the other,
// starting with peer turn.
func (b *bench) measure(ctx context.Context, r row, round, turn int, log *os.File) error {
	times := 1
	if r.starts > 0 {
		times = (r.starts + b.options.rounds - 1) / b.options.rounds
		if b.options.quick {
			times = 5
		}
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
	s, err := newScene(b.env, p, r.mtu)
	if err != nil {
		return nil, err
	}
	defer s.close()
	if r.published != nil {
		s.publish(r.published)
	}
	if r.dns {
		s.resolve()
	}
	if r.starts == 0 {
		if err := s.start(ctx); err != nil {
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
