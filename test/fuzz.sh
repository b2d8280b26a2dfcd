#!/bin/sh
# Fuzzes every target of the packages for FUZZTIME each (default 60s), one after the other,
# even if one fails. The input that made a target fail stays in its package's testdata/fuzz,
# where go test finds it again.
set -eu
time=${FUZZTIME:-60s}
temp=$(mktemp -d)
trap 'rm -rf "$temp"' EXIT
trap 'exit 1' INT TERM
log=$temp/log cache=$(go env GOCACHE)/fuzz

# Each package is linked once: go test -fuzz would do so for every target. Minimizing inputs
# that are only interesting would take most of the time. If the time ends during an execution,
# the test may report that its context's deadline is exceeded: then no input has failed.
run() {
	(cd "$1" && "$temp/test" -test.run='^$' -test.fuzz="^$3\$" -test.fuzztime="$time" \
		-test.fuzzminimizetime=100x -test.fuzzcachedir="$cache/$2") >"$log" 2>&1 && return
	grep -qx ' *context deadline exceeded' "$log" && ! grep -q 'Failing input\|seed corpus entry' "$log"
}

failed=0
for package in $(go list ./... | grep -Ev '/test(/|$)'); do
	dir=$(go list -f '{{.Dir}}' "$package")
	grep -qs '^func Fuzz' "$dir"/*_test.go || continue
	go test -c -fuzz=. -o "$temp/test" "$package"
	for name in $(cd "$dir" && "$temp/test" -test.list '^Fuzz'); do
		if run "$dir" "$package" "$name"; then
			executions=$(sed -n 's/.*execs: \([0-9]*\).*/\1/p' "$log" | tail -n 1)
			echo "$package $name: ${executions:-no} executions"
		else
			cat "$log"
			echo "$package $name failed; to run it again: go test -run='^$name\$' $package"
			failed=1
		fi
	done
done
exit $failed
