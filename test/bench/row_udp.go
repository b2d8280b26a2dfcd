package main

import (
	"context"
	"fmt"
	"time"
)

// packets looks for the highest rate of datagrams from the guest that loses no
// more than one in a hundred.
func packets(size int) row {
	r := paced(load{Kind: loadFloodUDP, Size: size}, fmt.Sprintf("UDP %d B out, loss under 1 %%", size))
	r.name = fmt.Sprintf("udp-%d", size)
	r.extra = size == 512 || size == 8000
	return r
}

// packetsDefault is the same to a server that has not asked for a larger buffer,
// and loses what comes while it waits for a processor.
func packetsDefault(size int) row {
	r := paced(load{Kind: loadFloodUDP, Size: size, defaultBuffer: true}, fmt.Sprintf("UDP %d B out into a default buffer, loss under 1 %%", size))
	r.name = fmt.Sprintf("udp-default-%d", size)
	return r
}

// packetsIn is the same to the guest, which has asked for them.
func packetsIn(size int) row {
	r := paced(load{Kind: loadUDPIn, Size: size}, fmt.Sprintf("UDP %d B in, loss under 1 %%", size))
	r.name = fmt.Sprintf("udp-in-%d", size)
	return r
}

// Of a QUIC sender: packets of one size, many to a system call.
const (
	burstSize     = 1200
	burstSegments = 10
)

// bursts is what a QUIC sender does.
func bursts() row {
	r := paced(load{Kind: loadFloodUDP, Size: burstSize, Burst: burstSegments}, fmt.Sprintf("UDP %d B out in bursts of %d (UDP_SEGMENT), loss under 1 %%", burstSize, burstSegments))
	r.name = fmt.Sprintf("udp-gso-%d", burstSize)
	return r
}

func burstsIn() row {
	r := paced(load{Kind: loadUDPIn, Size: burstSize, Burst: burstSegments}, fmt.Sprintf("UDP %d B in, in bursts of %d (UDP_SEGMENT), loss under 1 %%", burstSize, burstSegments))
	r.name = fmt.Sprintf("udp-in-gso-%d", burstSize)
	return r
}

func paced(l load, title string) row {
	return row{
		mtu: bigMTU,
		metrics: []metric{
			{key: "kpps", title: title, unit: "kpackets/s"},
			{key: "cpu_us_per_packet", title: title, unit: "helper CPU µs/packet", lower: true, digits: 1, helpers: true},
		},
		run: func(ctx context.Context, s *scene, window time.Duration) (values, error) {
			t, err := startDatagrams(ctx, s, l)
			if err != nil {
				return nil, err
			}
			defer t.close()
			return search(func(rate float64) (span, error) { return t.probe(ctx, uint64(rate), window/4) })
		},
	}
}

// flood sends faster than anybody can take, and counts what arrives.
func flood(size int) row {
	title := fmt.Sprintf("UDP %d B out, sent without pause", size)
	return row{
		name:  fmt.Sprintf("udp-flood-%d", size),
		mtu:   bigMTU,
		extra: size < 1400,
		metrics: []metric{
			{key: "kpps", title: title + ": delivered", unit: "kpackets/s"},
			{key: "loss_percent", title: title + ": lost", unit: "%", lower: true, alone: true},
		},
		run: func(ctx context.Context, s *scene, window time.Duration) (values, error) {
			t, err := startDatagrams(ctx, s, load{Kind: loadFloodUDP, Size: size})
			if err != nil {
				return nil, err
			}
			defer t.close()
			t.rate.Store(unpaced)
			w, err := t.window(ctx, settle/3, window)
			if err != nil {
				return nil, err
			}
			v := values{"kpps": w.done / w.seconds / 1e3}
			if w.sent > 0 {
				v["loss_percent"] = max(0, 100*(1-w.done/w.sent))
			}
			return v, nil
		},
	}
}

// startDatagrams starts a sender that is slow until told otherwise. The first
// datagrams may be lost, as to an address not yet known.
func startDatagrams(ctx context.Context, s *scene, l load) (*traffic, error) {
	l.Threads, l.ready, l.rate = 1, 1, 1000
	return s.newTraffic(ctx, l)
}

const (
	lossAllowed = 0.01
	firstRate   = 16e3 // packets per second
	refinements = 4    // halvings of the last doubling: steps of 1/16
)

// search doubles the rate until packets are lost, and then halves the distance
// between the last that was carried and the first that was not. A rate that
// fails is tried once more, since one moment in which nobody runs the helper
// loses as much as a helper that is too slow; and once more when all below it
// were carried, since it then bounds the search alone.
func search(probe func(rate float64) (span, error)) (values, error) {
	var best span
	carried := func(rate float64) (ok, more bool, err error) {
		for range 2 {
			w, err := probe(rate)
			if err != nil {
				return false, false, err
			}
			if w.sent > 0 && w.done >= w.sent*(1-lossAllowed) {
				if w.done/w.seconds > best.done/max(best.seconds, 1e-9) {
					best = w
				}
				// A sender that falls behind its rate is the limit.
				return true, w.sent/w.seconds > 0.9*rate, nil
			}
		}
		return false, true, nil
	}
	low, high, again := 0.0, firstRate, false
	for {
		ok, more, err := carried(high)
		if err != nil {
			return nil, err
		}
		if ok && more {
			low, high, again = high, 2*high, false
			continue
		}
		if ok || again {
			return rates(best), nil
		}
		top := high
		for range refinements {
			middle := (low + high) / 2
			ok, more, err := carried(middle)
			if err != nil {
				return nil, err
			}
			if ok && more {
				low = middle
			} else {
				high = middle
			}
		}
		if high < top {
			return rates(best), nil
		}
		again = true
	}
}

func rates(w span) values {
	if w.done == 0 {
		return values{"kpps": 0}
	}
	return values{"kpps": w.done / w.seconds / 1e3, "cpu_us_per_packet": w.cpu * 1e6 / w.done}
}

// probe sends at a rate for d, waits until what is under way has arrived, and
// gives what was sent and received.
func (t *traffic) probe(ctx context.Context, rate uint64, d time.Duration) (span, error) {
	a, err := t.read()
	if err != nil {
		return span{}, err
	}
	t.rate.Store(rate)
	if err := pause(ctx, d); err != nil {
		return span{}, err
	}
	t.rate.Store(0)
	took := time.Since(a.at)
	if err := t.drain(ctx); err != nil {
		return span{}, err
	}
	b, err := t.read()
	if err != nil {
		return span{}, err
	}
	b.at = a.at.Add(took)
	return t.between(a, b), nil
}

// drain waits until the counters stand still.
func (t *traffic) drain(ctx context.Context) error {
	for last := t.sent.Load() + t.total(); ; {
		if err := pause(ctx, 15*time.Millisecond); err != nil {
			return err
		}
		n := t.sent.Load() + t.total()
		if n == last {
			return nil
		}
		last = n
	}
}
