#!/bin/sh
# Makes bin/man and bin/completions from the documents and the help texts of bin/epiphyte,
# and bin/NOTICES, the licences of what is linked into it.
set -eu
cd "$(dirname "$0")/.."
. packaging/tools.sh

mkdir -p bin/man
day=$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y-%m-%d)
while read -r page document about; do
	$go run ./packaging/man "$version" "$day" "$page" "$about" <"docs/$document" >"bin/man/$page.md"
	tool go-md2man -in "bin/man/$page.md" -out "bin/man/$page"
	gzip -9nf "bin/man/$page"
	rm "bin/man/$page.md"
done <packaging/pages
rm -rf bin/completions
$go run ./packaging/completions bin/epiphyte bin/completions

# licences DIRECTORY lists the licence files of a module.
licences() {
	find "$1" -maxdepth 1 -type f -iregex '.*/\(licen[cs]e\|copying\|notice\)[^/]*' | sort | while read -r file; do
		cat "$file"
		echo
	done
}
{
	echo "== Go, its library and its runtime"
	licences "$($go env GOROOT)"
	$go version -m bin/epiphyte | awk '$1 == "dep" {print $2, $3}' | while read -r module release; do
		echo "== $module $release"
		licences "$($go list -m -f '{{.Dir}}' "$module")"
	done
} >bin/NOTICES
