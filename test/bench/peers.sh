#!/bin/sh
# Brings the newest peers into a cache directory, for the benchmarks alone:
# RootlessKit by the go command, slirp4netns and passt out of the development
# suite of the distribution that this machine is subscribed to, with the
# libraries of that suite. Nothing is installed, and what cannot be had is taken
# from the machine instead, so nothing here is fatal.
#
#	peers.sh          fetch what is missing or older than a week
#	peers.sh rootlesskit     the same for RootlessKit alone
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
	kit=github.com/rootless-containers/rootlesskit/v3/cmd
	(cd / && GOBIN="$dir/bin" CGO_ENABLED=0 ${GO:-go} install $kit/rootlesskit@latest $kit/rootlessctl@latest $kit/rootlesskit-docker-proxy@latest)
}

# packages makes links to the programs, which know their libraries.
packages() {
	sh "$(dirname "$0")/../newest.sh" "$dir" 'slirp4netns passt' 'usr/bin/slirp4netns usr/bin/pasta* usr/bin/passt*'
	for program in slirp4netns pasta; do
		"$dir/root/usr/bin/$program" --version >/dev/null
		ln -sf "$dir/root/usr/bin/$program" "$dir/bin/$program"
	done
}

# want NAME TITLE: fetched unless that was done within a week. In a shell of its own,
# since set -e does not hold within a condition.
want() {
	fresh ".$1" && return
	echo "fetching the newest $2 "
	if sh "$0" "fetch-$1" 2>"$dir/$1.log"; then
		touch "$dir/.$1"
	else
		echo "cannot fetch the newest $2 ($(tail -n 1 "$dir/$1.log")): the machine's own is measured"
	fi
}

case ${1-} in
fetch-rootlesskit) rootlesskit ;;
fetch-packages) packages ;;
rootlesskit) want rootlesskit RootlessKit ;;
*)
	want rootlesskit RootlessKit
	want packages "slirp4netns and pasta"
	;;
esac
