#!/bin/sh
# Unpacks packages of the development suite of this machine's distribution, with their
# dependencies, into DIR/root. The programs are patched to use their own loader and
# libraries: a wrapper would add to the time to start, and pasta looks beside its own
# executable for a build that suits the processor. Nothing is installed.
#
#	newest.sh DIR 'PACKAGE...' 'PROGRAM...' [next]     programs are patterns below root
#
# With next the packages themselves come from the suite that precedes it, if it has them.
set -eu
dir=$1 packages=$2 programs=$3 next=${4-}
umask 022
mkdir -p "$dir"

# The suite that follows a distribution's releases.
suite() {
	case $(. /etc/os-release && echo "${ID-}") in
	debian) echo sid ;;
	*) echo "this distribution has no such suite" >&2 && return 1 ;;
	esac
}

command -v apt-get >/dev/null && command -v patchelf >/dev/null || { echo "apt-get and patchelf are needed" >&2; exit 1; }
suite=$(suite)
coming=experimental # of Debian, the one distribution that suite knows
uri=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE)' 'Created-By: Packages' 'Component: main' |
	sed -n "s, $(. /etc/os-release && echo "$VERSION_CODENAME")\$,,p" | head -n 1)
[ -n "$uri" ]
apt=$dir/apt
rm -rf "$apt" "$dir/root.new"
mkdir -p "$apt/lists/partial" "$apt/archives/partial" "$apt/etc" "$dir/root.new"
echo "deb $uri $suite main" >"$apt/etc/suite.list"
[ -z "$next" ] || echo "deb $uri $coming main" >>"$apt/etc/suite.list"
: >"$apt/status"
private() {
	apt-get -qq -o Dir::State="$apt" -o Dir::State::lists="$apt/lists" -o Dir::State::status="$apt/status" \
		-o Dir::Cache="$apt" -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$apt/etc" \
		-o Acquire::Retries=1 -o Acquire::http::Timeout=20 -o APT::Sandbox::User="$(id -un)" -o Debug::NoLocking=true "$@" </dev/null >/dev/null
}
private update
private install -y --no-install-recommends --download-only ${next:+-t "$coming"} $packages
for deb in "$apt"/archives/*.deb; do
	dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$dir/root.new" --no-same-owner
done
loader=$(cd "$dir/root.new" && find usr/lib* lib* -name 'ld-linux*.so.*' 2>/dev/null | head -n 1)
libs=$(cd "$dir/root.new" && find usr/lib lib -name 'libc.so.6' 2>/dev/null | head -n 1)
for pattern in $programs; do
	for program in "$dir"/root.new/$pattern; do
		[ -f "$program" ] && [ ! -L "$program" ] || continue
		head -c 4 "$program" | grep -q ELF || continue
		patchelf --set-interpreter "$dir/root/$loader" --force-rpath --set-rpath "$dir/root/${libs%/*}" "$program"
	done
done
rm -rf "$dir/root" "$apt"
mv "$dir/root.new" "$dir/root"
