package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// replay reports what earlier runs have written with -json, as one run: so a
// table can be taken in parts, and drawn anew.
func replay(o options, w io.Writer) error {
	f, err := os.Open(o.from)
	if err != nil {
		return err
	}
	defer f.Close()
	b, err := recorded(f, o)
	if err != nil {
		return fmt.Errorf("read %s: %w", o.from, err)
	}
	section := b.report()
	if _, err := io.WriteString(w, section); err != nil || o.docPath == "" {
		return err
	}
	var out outputs
	if out.doc, err = os.OpenFile(o.docPath, os.O_RDWR, 0); err != nil {
		return err
	}
	fd, err := unix.MemfdCreate("pictures", unix.MFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("make file of pictures: %w", err)
	}
	out.svg = os.NewFile(uintptr(fd), "pictures")
	defer out.svg.Close()
	if err := out.document(b, section); err != nil {
		return err
	}
	return savePictures(out.svg, o.docPath)
}

// recorded makes a run of samples. Rounds are counted anew: the rounds of a
// second run follow those of the first.
func recorded(r io.Reader, o options) (*bench, error) {
	b := &bench{options: o, recorded: true}
	type place struct{ row, peer string }
	rounds := map[place]int{}
	versions := map[string]string{}
	var labels []string
	for d := json.NewDecoder(r); ; {
		var s sample
		err := d.Decode(&s)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		at := place{s.Row, s.Peer}
		s.Round = rounds[at]
		rounds[at]++
		if _, ok := versions[s.Peer]; !ok {
			labels = append(labels, s.Peer)
		}
		versions[s.Peer] = s.Version
		b.samples = append(b.samples, s)
	}
	if len(b.samples) == 0 {
		return nil, errors.New("no samples")
	}
	b.begin = b.samples[0].Time
	wanted, err := parsePeers(o.peers)
	if err != nil {
		return nil, err
	}
	for _, label := range labels {
		if !slices.ContainsFunc(wanted, func(p peer) bool { return p.Label == label }) {
			p, err := parsePeers(label)
			if err != nil {
				return nil, err
			}
			wanted = append(wanted, p...)
		}
	}
	for _, p := range wanted {
		if version, ok := versions[p.Label]; ok {
			p.Version = version
			b.peers = append(b.peers, p)
		}
	}
	b.rows = slices.DeleteFunc(allRows(), func(r row) bool {
		return !slices.ContainsFunc(b.samples, func(s sample) bool { return s.Row == r.name })
	})
	return b, nil
}
