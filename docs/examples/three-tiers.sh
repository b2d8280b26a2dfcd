#!/bin/sh
# Three tiers on two networks, as a plain user:
#
#	client ── :8080 ──► web ── front ──► app ── back (internal) ──► db
#
# web is published on the host. app is on both networks. db is on the internal one: it
# reaches nothing outside, and web does not reach it. Ends with 0 if all of that holds.
# Needs python3, for its servers, and curl.
set -eu

epiphyte=${EPIPHYTE:-epiphyte}
port=${PORT:-8080}
dir=$(mktemp -d)
members=

# Guests end with their clients, and networks with their last member.
cleanup() {
	[ -z "$members" ] || kill $members 2>/dev/null || true
	wait
	"$epiphyte" network rm --force front back 2>/dev/null || true
	rm -rf "$dir"
}
trap cleanup EXIT
trap 'exit 1' INT TERM

# serve PORT URL: a server that answers with what it gets from URL.
cat >"$dir/serve.py" <<'PYTHON'
import http.server, socket, sys, urllib.request

class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        source = sys.argv[2]
        try:
            body = urllib.request.urlopen(source, timeout=10).read() if "://" in source else source.encode()
        except OSError as problem:
            return self.send_error(502, str(problem))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass

Server(("", int(sys.argv[1])), Handler).serve_forever()
PYTHON

# member NAME ARG...: runs a guest in the background.
member() {
	name=$1
	shift
	"$epiphyte" run --name "$name" "$@" &
	members="$members $!"
}

"$epiphyte" network create front
"$epiphyte" network create --internal back

member db --network back -- python3 "$dir/serve.py" 5432 'three rows'
member app --network front --network back -- python3 "$dir/serve.py" 8000 http://db:5432/
member web --network front -p "127.0.0.1:$port:80" -- python3 "$dir/serve.py" 80 http://app:8000/

# The servers need a moment to start.
answer=$(curl --silent --fail --retry 60 --retry-delay 1 --retry-all-errors --max-time 10 "http://127.0.0.1:$port/")
[ "$answer" = 'three rows' ] || {
	echo "the client got '$answer'"
	exit 1
}
echo "client -> web -> app -> db: $answer"

"$epiphyte" network ls
"$epiphyte" network inspect front

if "$epiphyte" run --network front -- getent hosts db; then
	echo "a member of front knows db"
	exit 1
fi
echo "front does not know db"

if "$epiphyte" run --network back -- curl --silent --max-time 5 http://192.0.2.1/; then
	echo "an internal network reaches outside"
	exit 1
fi
echo "back reaches nothing outside"
