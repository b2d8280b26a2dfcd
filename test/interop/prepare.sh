#!/bin/sh
# Installs the programs that drive helpers, and slirp4netns beside them, from
# the distribution's packages. What is missing in the end is skipped by the
# checks, each with its reason, so nothing here is fatal.
set -eu

missing=
need() { command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ] || missing="$missing $2"; }
need podman podman
need newuidmap uidmap
need crun crun
need rootlesskit rootlesskit
need dockerd docker.io
need iptables iptables
need slirp4netns slirp4netns
need ip iproute2
need ping iputils-ping
[ -x /usr/lib/podman/netavark ] || missing="$missing netavark aardvark-dns"
grep -qs '^Package: busybox-static$' /var/lib/dpkg/status || missing="$missing busybox-static"

if [ -n "$missing" ]; then
	if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
		# Daemons that come along are not to be started: run level 1 has none.
		export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
		if ! { apt-get -qq update && apt-get -qq install -y --no-install-recommends $missing; } </dev/null >/dev/null; then
			echo "cannot install$missing: checks that need them are skipped"
		fi
	else
		echo "not installed:$missing: checks that need them are skipped"
	fi
fi

if [ "$(id -u)" = 0 ] && [ -e /dev/net/tun ] && [ "$(stat -c %a /dev/net/tun)" != 666 ]; then
	echo "opening /dev/net/tun to plain users, as udev does (chmod 666)"
	chmod 666 /dev/net/tun || true
fi
