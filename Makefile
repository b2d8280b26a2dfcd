# Everything that a developer or a packager calls. Go's own caching decides what is
# rebuilt, so no target names its sources.
PREFIX ?= /usr/local
GO     ?= go

# Kept out of go.mod: the product does not have a linter's dependencies.
STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2

# As typed, not expanded by make: the shell expands CMD='echo $HOME'.
export RUN_CMD := $(value CMD)

.PHONY: build test lint fuzz race bench soak interop run pages dist reproduce vulnerabilities install install-pasta install-rootlessport

build:
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/epiphyte ./cmd/epiphyte

# How many end-to-end tests run side by side. They mostly wait, for timers and processes.
SIDE_BY_SIDE = 4

# The end-to-end tests have the machine to themselves, and print their progress, which
# go test passes on when it is given no package.
test: build
	@sh test/prepare.sh
	@failed=0; \
	$(GO) test -timeout=20m $$($(GO) list ./... | grep -v '/test$$') || failed=1; \
	(cd test && EPIPHYTE=$(CURDIR)/bin/epiphyte $(GO) test -count=1 -parallel=$(SIDE_BY_SIDE) -timeout=40m) || failed=1; \
	exit $$failed

# The race detector, which needs cgo: unit tests, then the program itself, confined as
# ever, driven by the end-to-end tests. Left out are tests that mean nothing with a detector
# inside, because they measure memory, threads, wake-ups, throughput or the time of a start,
# or because cgo starts threads in its own way; tests that only repeat others thousands
# of times, which takes minutes; and tests of what is said about a command line, where nothing
# has begun to run beside anything else.
E2E_REPEAT  = B5_Restart|B10_Published|PastaRestart|PestoThousandPorts|NetworkManyMembers|Policy(Many|FloodOfDenials)|Iperf3|Ping$$
E2E_MEASURE = B8_|B16_(Short|Concurrent|TenThousand|Memory|Published|Exposed)|B17_(Closed|Single|Servers)|B32_|B42_Floods|StartIsQuick|ThreadsExhausted|ProcessLimitAtStart|N9_|Queues_(HoldLittle|WorkIsPinned)
E2E_SAY     = Help_|Messages$$|Doctor|Documented|Completions|StartWarnings|PastaFaults|N8_OptionsThatCannotWork
E2E_WITHOUT_RACE = ^Test($(E2E_REPEAT)|$(E2E_MEASURE)|$(E2E_SAY))

race:
	$(GO) test -race -timeout=10m $$($(GO) list ./... | grep -Ev '/test(/|$$)')
	CGO_ENABLED=1 $(GO) build -race -o bin/epiphyte-race ./cmd/epiphyte
	@sh test/prepare.sh
	cd test && GORACE='halt_on_error=1 atexit_sleep_ms=0' EPIPHYTE=$(CURDIR)/bin/epiphyte-race \
		$(GO) test -count=1 -parallel=$(SIDE_BY_SIDE) -timeout=25m -skip '$(E2E_WITHOUT_RACE)'

lint:
	@unformatted=$$(gofmt -l .); test -z "$$unformatted" || { echo "not gofmt'ed: $$unformatted"; exit 1; }
	$(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...

# FUZZTIME is how long each target runs.
fuzz:
	@sh test/fuzz.sh

bench: build
	@sh test/prepare.sh bench
	PATH="$$(sh test/bench/peers.sh where):$$PATH" EPIPHYTE=$(CURDIR)/bin/epiphyte $(GO) run ./test/bench

# SOAK is how long the load lasts, SEED repeats an earlier one, WRITE is a file for a plot.
soak: build
	EPIPHYTE=$(CURDIR)/bin/epiphyte $(GO) run ./test/soak

# Real callers: HELPER names other helpers to give them, CHECKS is a pattern.
interop: build
	@CHECKS='$(CHECKS)' sh test/interop/prepare.sh
	CGO_ENABLED=0 $(GO) run ./test/interop -checks '$(or $(CHECKS),*)' $(or $(HELPER),bin/epiphyte)

# A shell with a network of its own; make run CMD='...' runs one command in it.
run: build
	@if [ -n "$$RUN_CMD" ]; then exec bin/epiphyte run -- sh -c "$$RUN_CMD"; else exec bin/epiphyte run; fi

# Manual pages, completions and the licences of what is linked in, into bin.
pages: build
	sh packaging/pages.sh

# Packages and tarballs into OUT (dist), for ARCHES (amd64 arm64).
dist:
	@sh packaging/dist.sh

# Checks that two builds in different folders are equal.
reproduce:
	@sh packaging/reproduce.sh

# Known vulnerabilities of the libraries in what the program calls. It asks the internet.
vulnerabilities:
	@. packaging/tools.sh && tool govulncheck ./...

# Installs what was built, since root often has no Go: the program, its place among
# podman's network plugins, the user unit of networks, and what make pages has made.
# LINKS are further names of the program, as paths below PREFIX: LINKS='bin/pasta bin/slirp4netns'.
PROGRAM ?= bin/epiphyte
LINKS   ?=
ROOT     = $(DESTDIR)$(PREFIX)

install:
	@test -x $(PROGRAM) || { echo "$(PROGRAM) is not there yet: run make build first, as the user who has Go"; exit 1; }
	install -D -m 755 $(PROGRAM) $(ROOT)/bin/epiphyte
	install -d $(ROOT)/lib/systemd/user $(ROOT)/share/doc/epiphyte/examples
	sed 's,@PREFIX@,$(PREFIX),' docs/epiphyte-network@.service >$(ROOT)/lib/systemd/user/epiphyte-network@.service
	install -D -m 644 packaging/apparmor $(ROOT)/share/epiphyte/apparmor
	install -m 644 docs/examples/* $(ROOT)/share/doc/epiphyte/examples
	@for link in libexec/netavark/epiphyte $(LINKS); do \
		echo "link $(ROOT)/$$link"; \
		mkdir -p "$$(dirname "$(ROOT)/$$link")" && ln -sfrn $(ROOT)/bin/epiphyte "$(ROOT)/$$link" || exit 1; \
	done
	@for page in bin/man/*.gz; do \
		test -e "$$page" || continue; \
		section=$${page%.gz}; install -D -m 644 "$$page" "$(ROOT)/share/man/man$${section##*.}/$${page##*/}" || exit 1; \
	done
	@if [ -d bin/completions ]; then \
		install -D -m 644 bin/completions/epiphyte $(ROOT)/share/bash-completion/completions/epiphyte && \
		install -D -m 644 bin/completions/_epiphyte $(ROOT)/share/zsh/site-functions/_epiphyte && \
		install -D -m 644 bin/completions/epiphyte.fish $(ROOT)/share/fish/vendor_completions.d/epiphyte.fish && \
		install -m 644 bin/NOTICES $(ROOT)/share/doc/epiphyte/NOTICES; \
	fi

# The links by which podman, buildah and RootlessKit take the program for pasta: podman looks
# there before it looks at the distribution's own files, which stay as they are.
install-pasta:
	@$(MAKE) --no-print-directory install LINKS='libexec/podman/pasta libexec/podman/pesto'

# Has our networks publish the ports of their members for rootless podman, so that those see
# their clients' addresses. It takes precedence over podman's own program of this name, and
# hands it all other containers.
install-rootlessport:
	@$(MAKE) --no-print-directory install LINKS=libexec/podman/rootlessport
