// Package chart summarizes figures that were taken several times, and draws them.
//
// # Theory of operation
//
// A Summary is what is kept of repeated figures: median, lowest and highest. A Chart is
// data alone; SVG turns charts into one picture, a text without scripts or links, which
// a browser and a code host show alike.
//
// What it does not do: it measures nothing, writes no file and knows nothing of what
// the figures mean.
package chart
