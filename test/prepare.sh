#!/bin/sh
# Makes a machine ready for the end-to-end tests: the programs that users judge a
# network by, and the TAP device node; with the word bench also for the benchmarks: the
# newest available peers, and the programs that measure them. What is missing is skipped,
# so nothing here is fatal.
set -eu

missing=
# Some programs are not in the PATH: they are where their distribution keeps them.
need() {
	command -v "$1" >/dev/null 2>&1 && return
	for path in "/usr/sbin/$1" /usr/lib/postgresql/*/bin/"$1" "/usr/lib/git-core/$1" "/usr/libexec/git-core/$1"; do
		[ -x "$path" ] && return
	done
	case "$missing " in *" $2 "*) ;; *) missing="$missing $2" ;; esac
}
need iperf3 iperf3
need dig bind9-dnsutils
need ping iputils-ping
need traceroute traceroute
need python3 python3
need curl curl
need ip iproute2
need ss iproute2
need nft nftables
need bwrap bubblewrap
need prometheus prometheus
need newuidmap uidmap
need zsh zsh
need fish fish
need tmux tmux
need lintian lintian # for make reproduce
if [ "${1-}" = bench ]; then
	need slirp4netns slirp4netns
	need pasta passt
	need vde_switch vde2
	need nft nftables # by which RootlessKit keeps the client's address
	need patchelf patchelf
fi
if [ "${1-}" = bench ] && [ -z "${QUICK-}" ]; then # the quick form has no rows with these
	need redis-server redis-server
	need redis-benchmark redis-tools
	need nginx nginx
	need wrk wrk
	need h2load nghttp2-client
	need postgres postgresql
	need pgbench postgresql
	need git git
	need git-daemon git
	need dnsmasq dnsmasq-base
	need dnsperf dnsperf
fi

# install keeps packages from starting their daemons: invoke-rc.d(8) and systemd's equivalent
# ask this program first.
policy=/usr/sbin/policy-rc.d
install() {
	if [ ! -e $policy ]; then
		trap 'rm -f $policy' EXIT
		trap 'exit 1' HUP INT TERM
		printf '#!/bin/sh\nexit 101\n' >$policy && chmod 755 $policy
	fi
	apt-get -qq install -y --no-install-recommends "$@" </dev/null >/dev/null
}

if [ -n "$missing" ]; then
	if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
		export DEBIAN_FRONTEND=noninteractive
		if ! { apt-get -qq update </dev/null >/dev/null && install $missing; }; then
			# A package that this distribution lacks would keep all others from being installed.
			for package in $missing; do
				install "$package" || echo "cannot install $package: tests that run it are skipped"
			done
		fi
	else
		echo "not installed:$missing: tests that run them are skipped"
	fi
fi

tun=/dev/net/tun
if [ "$(id -u)" = 0 ]; then
	[ -e $tun ] || { mkdir -p /dev/net && mknod $tun c 10 200; } || echo "cannot make $tun: is the tun module there?"
	if [ -e $tun ] && [ "$(stat -c %a $tun)" != 666 ]; then
		echo "opening $tun to plain users, as udev does (chmod 666)"
		chmod 666 $tun || true
	fi
elif ! [ -r $tun ] || ! [ -w $tun ]; then
	echo "$tun is closed to this user: run 'chmod 666 $tun' as root"
fi

if [ "${1-}" = bench ]; then
	sh "$(dirname "$0")/bench/peers.sh"
fi
