package chart

import (
	"fmt"
	"slices"
	"strings"
)

// Summary of a figure that was taken N times; the zero value is of none.
type Summary struct {
	Median, Min, Max float64
	N                int
}

// Summarize takes figures in any order.
func Summarize(v []float64) Summary {
	if len(v) == 0 {
		return Summary{}
	}
	v = slices.Sorted(slices.Values(v))
	return Summary{Median: middle(v), Min: v[0], Max: v[len(v)-1], N: len(v)}
}

// middle of sorted values.
func middle(v []float64) float64 {
	half := len(v) / 2
	if len(v)%2 == 0 {
		return (v[half-1] + v[half]) / 2
	}
	return v[half]
}

// Number writes a figure; thousands are separated, as there is no point then.
func Number(v float64, digits int) string {
	s := fmt.Sprintf("%.*f", digits, v)
	if whole, _, _ := strings.Cut(s, "."); len(whole) > 4 && digits == 0 {
		s = whole[:len(whole)-3] + " " + whole[len(whole)-3:]
	}
	return s
}
