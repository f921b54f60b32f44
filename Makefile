# make run    try Holdfast on this machine
# make test   everything that CI runs
# make bench  measure, and write bench.json
# make build  bin/holdfast and bin/holdfast-dev

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

.PHONY: run build test bench install-packages install-test-packages generated format vet staticcheck unit fuzz

run: install-packages build
	@exec bin/holdfast-dev $(ARGS)

build:
	@echo "building (the first time takes a minute)"
	@go build -ldflags '$(LDFLAGS)' -o bin/ ./cmd/holdfast ./cmd/holdfast-dev

# Debian's packages that are missing: SoftHSM2 is the token, gcc builds the
# binding to PKCS#11, swtpm is the TPM of the simulated platform.
install-packages:
	@.ci/install-packages softhsm2 swtpm gcc libc6-dev

# curl is a SigV4 client that this project did not write; prometheus has promtool.
install-test-packages: install-packages
	@.ci/install-packages curl prometheus

test: install-test-packages generated format vet staticcheck unit fuzz
	@echo "make test: all passed"

# What is generated is as its sources say.
generated:
	@go mod tidy -diff
	@go mod verify >/dev/null

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
