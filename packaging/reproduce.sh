#!/bin/sh
# Builds the packages in two folders, compares them byte for byte, and has lintian check one.
set -eu
cd "$(dirname "$0")/.."
. packaging/tools.sh
if ! fetched=$(tools_run 2>&1); then
	echo "skipped, the tools that make packages cannot be had: $(echo "$fetched" | tail -n 1)"
	exit 0
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for folder in one another/folder; do
	mkdir -p "$work/$folder"
	tar -c --exclude=./.git --exclude=./bin --exclude=./dist . | tar -x -C "$work/$folder"
	make --no-print-directory -s -C "$work/$folder" dist ARCHES="${ARCHES:-amd64}" OUT="$work/$folder/dist" >/dev/null
done
diff -r "$work/one/dist" "$work/another/folder/dist"
echo "equal byte for byte:"
cat "$work/one/dist/SHA256SUMS"

if command -v lintian >/dev/null; then
	lintian --fail-on error "$work"/one/dist/*.deb
else
	echo "lintian is not installed: it has not checked the Debian package"
fi
