# Sourced by the scripts beside it: third-party tools, kept out of go.mod because the product
# does not have their dependencies, and what all packages say about the source.
go=${GO:-go}
version=$(sed -n 's/^const Version = "\(.*\)"/\1/p' internal/cli/version.go)
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
export SOURCE_DATE_EPOCH

tool() {
	name=$1
	shift
	case $name in
	go-md2man) $go run github.com/cpuguy83/go-md2man/v2@v2.0.7 "$@" ;;
	nfpm) $go run github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.43.0 "$@" ;;
	cyclonedx-gomod) $go run github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@v1.10.0 "$@" ;;
	govulncheck) $go run golang.org/x/vuln/cmd/govulncheck@v1.9.0 "$@" ;;
	esac
}

# tools_run reports whether the tools that make packages can be fetched and built.
tools_run() { tool go-md2man --help && tool nfpm --version && tool cyclonedx-gomod version; }
