package cli

import (
	"math"
	"runtime/debug"

	"epiphyte/stack"
)

// softMemory is the size in bytes from which on the collector works as often as it
// must to stay there: the TCP buffers of a guest, and what the program takes besides.
// Below it the collector lets memory grow to twice what is in use.
const softMemory = stack.DefaultBufferBytes + 128<<20

// limitMemory sets the collector's limit, unless GOMEMLIMIT has set one.
func limitMemory() {
	if debug.SetMemoryLimit(-1) == math.MaxInt64 {
		debug.SetMemoryLimit(softMemory)
	}
}
