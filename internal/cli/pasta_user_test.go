package cli

import (
	"testing"

	"epiphyte/internal/sandbox"
)

func TestParseUser(t *testing.T) {
	for s, want := range map[string]sandbox.User{
		"0": {}, "0:7": {GID: 7}, "root": {}, "root:9": {GID: 9}, "4000000000": {UID: 4000000000, GID: 4000000000}, "4000000000:root": {UID: 4000000000},
	} {
		if got, err := parseUser(s); err != nil || *got != want {
			t.Errorf("%s: %v, %v, want %v", s, got, err, want)
		}
	}
	for _, s := range []string{":1", "no such user", "1:no such group", "4294967295", "-1", "1:"} {
		if got, err := parseUser(s); err == nil {
			t.Errorf("%q is %v", s, got)
		}
	}
}
