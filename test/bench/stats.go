package main

import "epiphyte/test/chart"

// percentile of sorted values, by the nearest rank; 0 of none.
func percentile(sorted []uint32, p float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	i := int(p / 100 * float64(len(sorted)))
	return float64(sorted[min(i, len(sorted)-1)])
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
	s := chart.Summarize(ratios(ours, theirs))
	return s.Median, s.N > 0
}
