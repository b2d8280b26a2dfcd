package main

import "slices"

// percentile of sorted values, by the nearest rank; 0 of none.
func percentile(sorted []uint32, p float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	i := int(p / 100 * float64(len(sorted)))
	return float64(sorted[min(i, len(sorted)-1)])
}

// summary of a figure over the rounds.
type summary struct {
	median, min, max float64
	n                int
}

func summarize(v []float64) summary {
	if len(v) == 0 {
		return summary{}
	}
	v = slices.Sorted(slices.Values(v))
	return summary{median: middle(v), min: v[0], max: v[len(v)-1], n: len(v)}
}

// middle of sorted values.
func middle(v []float64) float64 {
	half := len(v) / 2
	if len(v)%2 == 0 {
		return (v[half-1] + v[half]) / 2
	}
	return v[half]
}

// figures of a metric by round, for one row and peer.
func figures(samples []sample, row, peer, key string) map[int]float64 {
	f := map[int]float64{}
	for _, s := range samples {
		if v, ok := s.Values[key]; ok && s.Row == row && s.Peer == peer {
			f[s.Round] = v
		}
	}
	return f
}

// ratios are ours divided by theirs, taken round by round, so that both sides
// are of the same moment. A round without either does not count.
func ratios(ours, theirs map[int]float64) (r []float64) {
	for round, v := range ours {
		if t := theirs[round]; t > 0 {
			r = append(r, v/t)
		}
	}
	return r
}

// ratio is the median of the ratios, if there are any.
func ratio(ours, theirs map[int]float64) (float64, bool) {
	s := summarize(ratios(ours, theirs))
	return s.median, s.n > 0
}
