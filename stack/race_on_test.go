//go:build race

package stack_test

// raceDetector relaxes what is measured in time.
const raceDetector = true
