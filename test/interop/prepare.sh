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
need curl curl
need git git
need npm 'npm nodejs'
need ssh openssh-client
need sshd openssh-server
need psql postgresql-client
[ -x "$(echo /usr/lib/postgresql/*/bin/initdb)" ] || missing="$missing postgresql"
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

# Network plugins and pasta need a newer podman than some distributions have, and
# podman's next version asks more of pasta.
newest=/var/cache/epiphyte-interop
programs='usr/bin/podman usr/bin/buildah usr/bin/conmon usr/bin/crun usr/bin/pasta* usr/bin/pesto usr/lib/podman/* usr/libexec/podman/*'
fetch() { # DIR WHAT PACKAGES [next]
	[ "$(id -u)" = 0 ] && [ -z "$(find "$1/.fetched" -maxdepth 0 -mtime -7 2>/dev/null)" ] || return 0
	echo "fetching $2"
	mkdir -p "$1"
	if sh test/newest.sh "$1" "$3" "$programs" "${4-}" 2>"$1/log"; then
		touch "$1/.fetched"
	else
		echo "cannot fetch $2 ($(tail -n 1 "$1/log")): checks use the machine's own, or are skipped"
	fi
}
fetch "$newest" "the newest podman" 'podman buildah catatonit netavark aardvark-dns conmon crun passt'
fetch "$newest/next" "podman's next version" 'podman netavark aardvark-dns conmon crun' next
sh test/bench/peers.sh rootlesskit

# A Debian with its podman and nothing of ours, and our package for it.
case "${CHECKS-}" in
package*)
	debian=$newest/debian
	for tool in debootstrap lintian; do
		[ "$(id -u)" = 0 ] && ! command -v $tool >/dev/null || continue
		apt-get -qq install -y --no-install-recommends $tool </dev/null >/dev/null || true
	done
	if [ ! -e "$debian/usr/bin/podman" ] && [ "$(id -u)" = 0 ]; then
		echo "making a Debian by debootstrap"
		rm -rf "$debian.new"
		if debootstrap --variant=minbase --include=uidmap,iproute2,iputils-ping,podman stable "$debian.new" >"$newest/debootstrap.log" 2>&1; then
			rm -rf "$debian" "$debian.new/var/cache/apt/archives"
			mv "$debian.new" "$debian"
		else
			echo "debootstrap fails, see $newest/debootstrap.log: the suite package is skipped"
		fi
	fi
	rm -rf "$newest/packages"
	OUT="$newest/packages" ARCHES=amd64 sh packaging/dist.sh >/dev/null ||
		echo "cannot build packages: the suite package is skipped"
	;;
esac

# podman's own tests of pasta, from a repository of podman's that PODMAN_SOURCE names.
# Their image is made of the newest packages.
tests=$newest/podman-tests
if [ -n "${PODMAN_SOURCE-}" ]; then
	apt-get -qq install -y --no-install-recommends bats socat jq </dev/null >/dev/null
	tag=$("$newest/root/usr/bin/podman" --version | sed 's/.* \([0-9]*\.[0-9]*\)\..*/v\1/')
	tag=$(git -C "$PODMAN_SOURCE" tag --list "$tag.*" --sort=-version:refname | grep -v - | head -n 1)
	echo "taking podman's own tests from $tag"
	rm -rf "$tests/test"
	mkdir -p "$tests"
	git -C "$PODMAN_SOURCE" archive "$tag" test/system | tar -x -C "$tests"
	sed -i 's/ -quiet / /' "$tests/test/system/helpers.bash" # which older versions of openssl do not know
	[ -e "$tests/image" ] || sh test/newest.sh "$tests/image" 'busybox-static socat iproute2 libc-bin' ''
	image=$tests/image/root
	mkdir -p "$image/home/podman" "$image/proc" "$image/sys" "$image/dev" "$image/tmp" "$image/etc" "$image/run"
	for dir in bin sbin lib lib64; do ln -sfn usr/$dir "$image/$dir"; done
	for applet in $(busybox --list); do [ -e "$image/usr/bin/$applet" ] || ln -s busybox "$image/usr/bin/$applet"; done
	sed -n "/^cat >bytecheck/,/^EOF/p" "$tests/test/system/build-testimage" | sed '1d;$d' >"$image/home/podman/bytecheck"
	chmod 755 "$image/home/podman/bytecheck"
fi

if [ "$(id -u)" = 0 ] && [ -e /dev/net/tun ] && [ "$(stat -c %a /dev/net/tun)" != 666 ]; then
	echo "opening /dev/net/tun to plain users, as udev does (chmod 666)"
	chmod 666 /dev/net/tun || true
fi
