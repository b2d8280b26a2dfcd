#!/bin/sh
# Installs the programs that drive helpers, and slirp4netns beside them, from
# the distribution's packages, and unpacks the newest podman beside them. What is
# missing in the end is skipped by the checks, each with its reason, so nothing here
# is fatal.
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
need patchelf patchelf
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

# Network plugins need a newer podman than some distributions have.
newest=/var/cache/epiphyte-interop
if [ "$(id -u)" = 0 ] && [ -z "$(find "$newest/.fetched" -maxdepth 0 -mtime -7 2>/dev/null)" ]; then
	echo "fetching the newest podman"
	mkdir -p "$newest"
	if sh test/newest.sh "$newest" 'podman netavark aardvark-dns conmon crun passt' \
		'usr/bin/podman usr/bin/conmon usr/bin/crun usr/bin/pasta* usr/bin/passt* usr/lib/podman/* usr/libexec/podman/*' 2>"$newest/log"; then
		touch "$newest/.fetched"
	else
		echo "cannot fetch the newest podman ($(tail -n 1 "$newest/log")): checks of network plugins use the machine's own"
	fi
fi

if [ "$(id -u)" = 0 ] && [ -e /dev/net/tun ] && [ "$(stat -c %a /dev/net/tun)" != 666 ]; then
	echo "opening /dev/net/tun to plain users, as udev does (chmod 666)"
	chmod 666 /dev/net/tun || true
fi
