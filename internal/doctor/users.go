package doctor

import (
	"fmt"
	"os"
	"strings"

	"epiphyte/internal/subid"
)

// leastIDs is what images of distributions expect: user 65534 and all below.
const leastIDs = 65536

// subordinateIDs looks for a range of user and group ids and for the programs that map
// them. A container engine needs both, and run --map-auto some.
func subordinateIDs() Finding {
	const thing = "subordinate ids"
	if realRoot() {
		return ok(thing, "root has all ids")
	}
	lack := subid.Of(os.Getuid()).Lack(leastIDs, leastIDs)
	if lack == nil {
		return ok(thing, "there are enough, and programs that map them")
	}
	return limited(thing, fmt.Sprintf("%s: container engines, which need %d, may not start, nor what run --map-auto runs", lack.Text, leastIDs), lack.Remedy, Root)
}

// realRoot reports whether we are root outside of all user namespaces.
func realRoot() bool {
	ids, err := os.ReadFile("/proc/self/uid_map")
	return os.Geteuid() == 0 && err == nil && strings.Join(strings.Fields(string(ids)), " ") == "0 0 4294967295"
}
