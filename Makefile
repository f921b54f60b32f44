# make run    try Holdfast on this machine
# make test   everything that CI runs
# make bench  measure, and write bench.json; make bench-console for the console's pages
# make build  bin/holdfast and bin/holdfast-dev
# make generate     what templ makes of *.templ
# make screenshots  a picture of each page of the console, in docs/screenshots

# Erases copies of keys that the standard library leaves behind (package
# appliance/keyring/scrub).
export GOEXPERIMENT := runtimesecret
export GOFLAGS := -trimpath
export CGO_ENABLED := 1

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -X holdfast/cmd/internal/daemon.Version=$(VERSION)
# A number of runs, and not a time: at the end of a time Go 1.26 now and then takes
# its own deadline for a failure.
FUZZTIME ?= 10000x

.PHONY: run build test bench bench-console generate screenshots install-packages install-test-packages generated format vet staticcheck unit fuzz

run: install-packages build
	@exec bin/holdfast-dev $(ARGS)

build:
	@echo "building (the first time takes a minute)"
	@go build -ldflags '$(LDFLAGS)' -o bin/ ./cmd/holdfast ./cmd/holdfast-dev

# Debian's packages that are missing: SoftHSM2 is the token, gcc builds the
# binding to PKCS#11, swtpm is the TPM of the simulated platform.
install-packages:
	@.ci/install-packages softhsm2 swtpm gcc libc6-dev

# curl is a SigV4 client that this project did not write; prometheus has promtool;
# chromium opens the console; npm brings axe-core, which looks whether everybody can
# use it.
install-test-packages: install-packages
	@.ci/install-packages curl prometheus chromium fonts-dejavu-core npm
	@cd web/console/browsertest && npm ci --silent --no-audit --no-fund

test: install-test-packages generated format vet staticcheck unit fuzz
	@echo "make test: all passed"

# What is generated is as its sources say.
generated:
	@go mod tidy -diff
	@go mod verify >/dev/null
	@before=$$(cat web/console/*_templ.go web/console/ui/*_templ.go | sha256sum); $(MAKE) -s generate; \
	if [ "$$before" != "$$(cat web/console/*_templ.go web/console/ui/*_templ.go | sha256sum)" ]; then \
	  echo "the templates were changed and not generated anew; that is done now: look at it, and commit it"; exit 1; fi

generate:
	@go tool templ generate -path web/console >/dev/null 2>&1 || go tool templ generate -path web/console

screenshots: install-test-packages
	SCREENSHOTS=$(CURDIR)/docs/screenshots go test -count=1 ./cmd/holdfast-dev -run TestPages

format:
	@files=$$(gofmt -l $$(git ls-files -co --exclude-standard '*.go')); \
	if [ -n "$$files" ]; then echo "gofmt would change:"; echo "$$files"; exit 1; fi

vet:
	go vet ./...

staticcheck:
	go tool staticcheck ./...

unit:
	go test -race -timeout 8m ./...

# Each parser of foreign bytes, for a short time.
fuzz:
	@go list -f '{{.ImportPath}}' ./... | while read -r pkg; do \
	  for f in $$(go test -list '^Fuzz' $$pkg | grep '^Fuzz'); do \
	    echo "fuzz $$pkg $$f"; \
	    go test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x $$pkg || exit 1; \
	  done; \
	done

bench: install-packages build
	@go run ./cmd/internal/bench $(ARGS)

# How long the server takes for each page of the console with a million keys and ten
# million records; some minutes, and some gigabytes of disk.
bench-console: install-packages
	go test ./web/console -run xxx -bench Pages -benchtime 20x -timeout 60m -args -console-keys 1000000 -console-records 10000000
