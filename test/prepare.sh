#!/bin/sh
# Makes a machine ready for the end-to-end tests: the programs that users judge a
# network by, and the TAP device node; with the word bench, for the benchmarks
# too: the peers, the newest that can be had. What is missing is skipped, so nothing here is fatal.
set -eu

missing=
need() { command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ] || missing="$missing $2"; }
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
need zsh zsh
need fish fish
need tmux tmux
if [ "${1-}" = bench ]; then
	need slirp4netns slirp4netns
	need pasta passt
	need vde_switch vde2
	need nft nftables # RootlessKit keeps the client's address by it
	need patchelf patchelf
fi

if [ -n "$missing" ]; then
	if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
		# Daemons that come along are not to be started: run level 1 has none.
		export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
		if ! { apt-get -qq update && apt-get -qq install -y --no-install-recommends $missing; } </dev/null >/dev/null; then
			echo "cannot install$missing: tests that run them are skipped"
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
