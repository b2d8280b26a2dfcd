#!/bin/sh
# Builds what is distributed, into OUT: for each of ARCHES a tarball, a Debian and an RPM
# package and a list of what is in the program (SBOM), and the checksums of all. Two builds
# of one source are equal byte for byte, wherever and whenever they are made: files are
# dated by SOURCE_DATE_EPOCH, or the last commit.
#
# MAINTAINER, "NAME <ADDRESS>", is the packages' maintainer; the default is the last commit's author.
set -eu
cd "$(dirname "$0")/.."
. packaging/tools.sh

out=$(mkdir -p "${OUT:-dist}" && cd "${OUT:-dist}" && pwd)
arches=${ARCHES:-amd64 arm64}
maintainer=${MAINTAINER:-$(git log -1 --format='%an <%ae>' 2>/dev/null || echo 'nobody <nobody@example.com>')}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
umask 022

make --no-print-directory build pages

# root ARCH PREFIX makes the tree of installed files.
root() {
	make --no-print-directory -s install PROGRAM="$work/$1/epiphyte" DESTDIR="$work/$1$2" PREFIX="$2" LINKS=
}

for arch in $arches; do
	CGO_ENABLED=0 GOOS=linux GOARCH=$arch $go build -trimpath -ldflags='-s -w' -o "$work/$arch/epiphyte" ./cmd/epiphyte
	tool cyclonedx-gomod bin -json -noserial -notimestamp -version "v$version" -output "$out/epiphyte-$version-linux-$arch.cdx.json" "$work/$arch/epiphyte" 2>/dev/null

	root "$arch" /usr/local
	top=epiphyte-$version-linux-$arch
	mv "$work/$arch/usr/local/usr/local" "$work/$arch/$top"
	cp README.md LICENSE CHANGELOG.md "$work/$arch/$top"
	tar --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner -C "$work/$arch" -c "$top" | gzip -9n >"$out/$top.tar.gz"

	root "$arch" /usr
	tree=$work/$arch/usr/usr
	mv "$tree/share/zsh/site-functions" "$work/$arch/zsh"
	doc=$tree/share/doc/epiphyte
	gzip -9n <CHANGELOG.md >"$doc/CHANGELOG.md.gz"
	printf 'epiphyte (%s) unstable; urgency=medium\n\n  * See CHANGELOG.md.gz.\n\n -- %s  %s\n' \
		"$version" "$maintainer" "$(LC_ALL=C date -u -R -d "@$SOURCE_DATE_EPOCH")" | gzip -9n >"$doc/changelog.gz"
	cp packaging/copyright "$doc/copyright"
	install -D -m 644 packaging/lintian "$work/$arch/lintian"
	for format in deb rpm; do
		sed -e "s,@ARCH@,$arch,; s,@VERSION@,$version,; s,@TREE@,$tree,; s,@WORK@,$work/$arch,; s|@MAINTAINER@|$maintainer|" \
			-e "s,@DATE@,$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y-%m-%dT%H:%M:%SZ)," packaging/nfpm.yaml >"$work/nfpm.yaml"
		tool nfpm package --config "$work/nfpm.yaml" --packager $format --target "$out/" >/dev/null
	done
done
cd "$out"
sha256sum $(ls | grep '^epiphyte') >SHA256SUMS
cat SHA256SUMS
