#!/bin/sh
# Fuzzes every target of the packages for FUZZTIME each (default 60s), one after the
# other. A target that fails keeps no other from its turn; what made it fail stays in
# its package's testdata/fuzz, where go test finds it again.
set -eu
time=${FUZZTIME:-60s}
log=$(mktemp)
trap 'rm -f "$log"' EXIT
trap 'exit 1' INT TERM

listed=$(go test -list '^Fuzz' $(go list ./... | grep -Ev '/test(/|$)'))
targets=$(echo "$listed" | awk '/^Fuzz/ { names[n++] = $1 } /^ok/ { for (i = 0; i < n; i++) print $2 ":" names[i]; n = 0 }')

# Minimizing what is only interesting would take most of the time. If the time ends
# within an execution, go test may say that its context's deadline is exceeded: no
# input has failed then.
run() {
	go test -run='^$' -fuzz="^$2\$" -fuzztime="$time" -fuzzminimizetime=100x "$1" >"$log" 2>&1 && return
	grep -qx ' *context deadline exceeded' "$log" && ! grep -q 'Failing input\|seed corpus entry' "$log"
}

failed=0
for target in $targets; do
	package=${target%:*} name=${target#*:}
	if run "$package" "$name"; then
		executions=$(sed -n 's/.*execs: \([0-9]*\).*/\1/p' "$log" | tail -n 1)
		echo "$package $name: ${executions:-no} executions"
	else
		cat "$log"
		echo "$package $name failed; to run it again: go test -run='^$name\$' $package"
		failed=1
	fi
done
exit $failed
