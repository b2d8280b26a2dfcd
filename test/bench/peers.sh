#!/bin/sh
# Brings the newest peers into a cache directory, for the benchmarks alone:
# RootlessKit by the go command, slirp4netns and passt out of the development
# suite of the distribution that this machine is subscribed to, with the
# libraries of that suite. Nothing is installed, and what cannot be had is taken
# from the machine instead, so nothing here is fatal.
#
#	peers.sh          fetch what is missing or older than a week
#	peers.sh where    name the directory that holds the programs
set -eu

# Not below root's home, which is closed to the uid that peers run as.
if [ "$(id -u)" = 0 ]; then
	dir=/var/cache/epiphyte-bench
else
	dir=${XDG_CACHE_HOME:-$HOME/.cache}/epiphyte-bench
fi
if [ "${1-}" = where ]; then
	echo "$dir/bin"
	exit
fi
umask 022
mkdir -p "$dir/bin"

fresh() { [ -n "$(find "$dir/$1" -maxdepth 0 -mtime -7 2>/dev/null)" ]; }

rootlesskit() {
	# Version 3 is the first that keeps the client's address.
	(cd / && GOBIN="$dir/bin" CGO_ENABLED=0 ${GO:-go} install github.com/rootless-containers/rootlesskit/v3/cmd/rootlesskit@latest)
}

# The suite that follows a distribution's releases.
suite() {
	case $(. /etc/os-release && echo "${ID-}") in
	debian) echo sid ;;
	*) return 1 ;;
	esac
}

# packages unpacks the programs with all that they link to, and points them at
# their own loader and libraries: a wrapper would add to the time to start, and
# pasta looks beside its own executable for a build that suits the processor.
packages() {
	command -v apt-get >/dev/null 2>&1 && command -v patchelf >/dev/null 2>&1 || return 1
	suite=$(suite) || return 1
	uri=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE)' 'Created-By: Packages' 'Component: main' |
		sed -n "s, $(. /etc/os-release && echo "$VERSION_CODENAME")\$,,p" | head -n 1)
	[ -n "$uri" ] || return 1
	apt=$dir/apt
	rm -rf "$apt" "$dir/root.new"
	mkdir -p "$apt/lists/partial" "$apt/archives/partial" "$apt/etc"
	echo "deb $uri $suite main" >"$apt/etc/suite.list"
	: >"$apt/status"
	private() {
		apt-get -qq -o Dir::State="$apt" -o Dir::State::lists="$apt/lists" -o Dir::State::status="$apt/status" \
			-o Dir::Cache="$apt" -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$apt/etc" \
			-o Acquire::Retries=1 -o Acquire::http::Timeout=20 -o APT::Sandbox::User="$(id -un)" -o Debug::NoLocking=true "$@" </dev/null >/dev/null
	}
	private update
	private install -y --no-install-recommends --download-only slirp4netns passt
	for deb in "$apt"/archives/*.deb; do
		dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$(mkdir -p "$dir/root.new" && echo "$dir/root.new")" --no-same-owner
	done
	root=$dir/root
	loader=$(cd "$dir/root.new" && find usr/lib* lib* -name 'ld-linux*.so.*' 2>/dev/null | head -n 1)
	libs=$(cd "$dir/root.new" && find usr/lib lib -name 'libc.so.6' 2>/dev/null | head -n 1)
	for program in "$dir"/root.new/usr/bin/slirp4netns "$dir"/root.new/usr/bin/pasta* "$dir"/root.new/usr/bin/passt*; do
		[ -f "$program" ] && [ ! -L "$program" ] || continue
		head -c 4 "$program" | grep -q ELF || continue
		patchelf --set-interpreter "$root/$loader" --force-rpath --set-rpath "$root/${libs%/*}" "$program"
	done
	rm -rf "$root" "$apt"
	mv "$dir/root.new" "$root"
	for program in slirp4netns pasta; do
		"$root/usr/bin/$program" --version >/dev/null
		ln -sf "$root/usr/bin/$program" "$dir/bin/$program"
	done
}

# want NAME TITLE: fetched unless that was done within a week. In a shell of its own,
# since set -e does not hold within a condition.
want() {
	fresh ".$1" && return
	echo "fetching the newest $2 for the benchmarks"
	if sh "$0" "fetch-$1" 2>"$dir/$1.log"; then
		touch "$dir/.$1"
	else
		echo "cannot fetch the newest $2 ($(tail -n 1 "$dir/$1.log")): the machine's own is measured"
	fi
}

case ${1-} in
fetch-rootlesskit) rootlesskit ;;
fetch-packages) packages ;;
*)
	want rootlesskit RootlessKit
	want packages "slirp4netns and pasta"
	;;
esac
