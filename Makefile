# make run    try Holdfast on this machine; ARGS='--nodes 3' for a fleet
# make test   everything that CI runs
# make test-contract  clients of the API, generated in Go and Python, and schemathesis
# make freeze-api     write the document of API v1, which later ones are compared with
# make bench  measure, and write bench.json (docs/performance.md); make bench-parts for the parts of a request,
#             make bench-console for the console's pages, make bench-fleet for fleets of one, two and three nodes
# make build  bin/holdfast, bin/holdfastd and bin/holdfast-dev; manual pages and completions in build
# make cross  the tool holdfast for each platform that it is for, in build/cross
# make generate     what templ makes of *.templ, and docs/codes.md of the registry of codes, and docs/operations-table.md of the table of operations
# make image        the disk image, in build/image (packer/image/build has the variables)
# make image-test   boot it under QEMU, update it, tamper with it
# make packer-local the same image through Packer, under QEMU
# make screenshots  pictures of each page of the console at three widths, in build/screenshots; those of README and docs are taken over

# Erases copies of keys that the standard library leaves behind (package
# appliance/keyring/scrub).
export GOEXPERIMENT := runtimesecret
export GOFLAGS := -trimpath
export CGO_ENABLED := 1

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -X holdfast/cmd/internal/version.Version=$(VERSION)
# A number of runs, and not a time: at the end of a time Go 1.26 now and then takes
# its own deadline for a failure.
FUZZTIME ?= 10000x

.PHONY: run build man completion cross test bench bench-parts bench-console bench-fleet generate screenshots test-contract freeze-api install-packages install-test-packages generated format vet staticcheck unit test-fleet fuzz \
  image image-test image-lock packer-local cfn-lint install-image-packages install-image-test-packages

run: install-packages build
	@$(if $(findstring --nodes,$(ARGS)),.ci/install-packages postgresql)
	@exec bin/holdfast-dev $(ARGS)

build:
	@echo "building (the first time takes a minute)"
	@CGO_ENABLED=0 go build -ldflags '$(LDFLAGS)' -o bin/ ./cmd/holdfast
	@go build -ldflags '$(LDFLAGS)' -o bin/ ./cmd/holdfastd ./cmd/holdfast-dev
	@$(MAKE) -s man completion

# What both programs say of themselves: man -l build/man/holdfast.1
man:
	@rm -rf build/man
	@bin/holdfast man build/man
	@bin/holdfastd man build/man

completion:
	@mkdir -p build/completion
	@for program in holdfast holdfastd; do for shell in bash zsh fish powershell; do \
	  bin/$$program completion $$shell > build/completion/$$program.$$shell || exit 1; done; done

# The tool of operators and auditors is pure Go, for these.
PLATFORMS := linux/amd64 linux/arm64 darwin/amd64 darwin/arm64 windows/amd64 windows/arm64

cross:
	@for p in $(PLATFORMS); do os=$${p%/*} arch=$${p#*/} end=; [ $$os != windows ] || end=.exe; \
	  echo "CGO_ENABLED=0 GOOS=$$os GOARCH=$$arch go build ./cmd/holdfast"; \
	  CGO_ENABLED=0 GOOS=$$os GOARCH=$$arch go build -ldflags '-s -w $(LDFLAGS)' -o build/cross/holdfast-$$os-$$arch$$end ./cmd/holdfast || exit 1; \
	done

# Debian's packages that are missing: SoftHSM2 is the token, gcc builds the
# binding to PKCS#11, swtpm is the TPM of the simulated platform.
install-packages:
	@.ci/install-packages softhsm2 swtpm gcc libc6-dev

# curl is a SigV4 client that this project did not write; prometheus has promtool;
# chromium opens the console; npm brings axe-core, which looks whether everybody can
# use it. What builds images makes small ones to predict, and other programs to
# compare with. wine64 runs the Windows build. PostgreSQL is the database of fleets, and
# pgbouncer stands in front of it.
install-test-packages: install-packages install-image-packages
	@.ci/install-packages curl prometheus chromium fonts-dejavu-core npm osslsigncode pgbouncer postgresql systemd wine64
	@packer/image/tools build/tools
	@cd web/console/browsertest && npm ci --silent --no-audit --no-fund

# What the image is built with, and booted with. Any Debian release will do: what goes
# into the image is of the release of packer/image/base.
install-image-packages: install-packages
	@.ci/install-packages apt binutils cpio cryptsetup-bin debian-archive-keyring dosfstools dpkg efitools faketime fdisk git kmod mtools openssl sbsigntool squashfs-tools xz-utils zstd

install-image-test-packages: install-image-packages
	@.ci/install-packages ovmf qemu-system-x86 swtpm-tools

# VERSION, CONFIG, MODULES, KEYS and POLICY: see packer/image/build.
image: install-image-packages
	@mkdir -p build/keys
	@CGO_ENABLED=0 go build -o build/holdfast ./cmd/holdfast
	@$(if $(KEYS),,packer/image/keys build/keys build/holdfast)
	@KEYS="$(abspath $(or $(KEYS),build/keys))" DEBS=build/debs packer/image/build build/image
	@go run ./packer/image/uefivars aws "$(or $(KEYS),build/keys)" build/image/uefi-data.aws

# The image of the boot test is built twice, and must come out the same. The image
# of make image is booted as well.
image-test: install-image-test-packages image
	@packer/image/tools build/tools
	@packer/boottest/build build/boottest
	@mkdir -p build/boottest/sold
	@ln -sf ../../image/holdfast.raw build/boottest/sold/holdfast.raw
	@go run ./packer/image/uefivars ovmf "$(or $(KEYS),build/keys)" /usr/share/OVMF/OVMF_VARS_4M.fd build/boottest/sold/OVMF_VARS.fd
	@packer/boottest/same build/boottest
	@packer/boottest/confinement build/tools
	go test -tags image -count=1 -timeout 10m ./packer/image/uefivars
	go test -tags image -count=1 -timeout 25m -parallel 2 -v ./packer/boottest -args -images $(CURDIR)/build/boottest

# The newest versions of the image's packages that its Debian release offers.
image-lock:
	@packer/image/lock

packer-local: install-image-test-packages image
	@.ci/install-packages packer qemu-utils
	@go run ./packer/image/uefivars ovmf "$(or $(KEYS),build/keys)" /usr/share/OVMF/OVMF_VARS_4M.fd build/OVMF_VARS.fd
	@KEYS="$(or $(KEYS),build/keys)" VARS=build/OVMF_VARS.fd packer/local/run

# What AWS would say of the templates.
cfn-lint:
	@packer/aws/lint.sh

test: install-test-packages generated format vet staticcheck cross unit fuzz
	@echo "make test: all passed"

# What is generated is as its sources say.
generated:
	@go mod tidy -diff
	@go mod verify >/dev/null
	@before=$$(cat web/console/*_templ.go web/console/ui/*_templ.go docs/codes.md docs/operations-table.md | sha256sum); $(MAKE) -s generate; \
	if [ "$$before" != "$$(cat web/console/*_templ.go web/console/ui/*_templ.go docs/codes.md docs/operations-table.md | sha256sum)" ]; then \
	  echo "the templates or the codes were changed and not generated again; that is done now: look at it, and commit it"; exit 1; fi

generate:
	@go tool templ generate -path web/console >/dev/null 2>&1 || go tool templ generate -path web/console
	@go generate ./appliance/fault ./web/operation

screenshots: install-test-packages
	SCREENSHOTS=$(CURDIR)/build/screenshots go test -count=1 ./cmd/holdfast-dev -run 'TestConsolePages|TestConsoleScreens'
	@for shot in docs/screenshots/*.png; do cp build/screenshots/1440/$${shot##*/} docs/screenshots/; done

format:
	@files=$$(gofmt -l $$(git ls-files -co --exclude-standard '*.go')); \
	if [ -n "$$files" ]; then echo "gofmt would change:"; echo "$$files"; exit 1; fi

# Packages that use cgo without -trimpath: with it, what is cached of one names the folder that it was
# built in first, and go vet fails when that folder is gone. The others with it, as all else here, so
# that they are compiled once.
vet:
	go vet $$(go list -f '{{if not .CgoFiles}}{{.ImportPath}}{{end}}' ./...)
	GOFLAGS= go vet $$(go list -f '{{if .CgoFiles}}{{.ImportPath}}{{end}}' ./...)

staticcheck:
	go tool staticcheck ./...

# The race detector, but not in SQLite's own code, which is C in Go's words: what it reads and writes is
# none of Go's memory, of which alone the detector keeps account, and to ask it each time takes two
# thirds of the time of tests.
RACE := -race $(foreach package,modernc.org/sqlite/lib modernc.org/libc/... modernc.org/memory/...,-gcflags=$(package)=-race=false)

# What make test has installed must be there: a test that lacks it fails. Of the long
# matrices the race detector sees a tenth; they are tried whole without it. make vet has vetted all.
unit:
	HOLDFAST_TEST_PACKAGES=1 go test $(RACE) -vet=off -timeout 30m ./...
	go test -vet=off -timeout 20m -run '^(TestTampered|TestPutBack|TestKillAtAnyMoment|TestMoveKilled|TestPolicyFields$$)' ./appliance ./cmd/internal/holdfastd ./attest/release
	go test -vet=off -timeout 20m -run '^TestMadeUpRequests$$' ./web -args -made-up 10000
	HOLDFAST_TEST_PACKAGES=1 go test -vet=off -timeout 20m -run '^(TestConsoleManyEntries|TestConsoleFiles)$$' ./cmd/holdfast-dev

# The model of a fleet, in as many schedules as it is to stand. Then a fleet of real processes,
# which are killed, paused and cut off, and whose database is tampered with. Then every test of
# the console in a browser, with a fleet behind a balancer that sends each request to another
# node.
test-fleet: install-packages
	@.ci/install-packages chromium fonts-dejavu-core npm pgbouncer postgresql
	@cd web/console/browsertest && npm ci --silent --no-audit --no-fund
	go test -count=1 -timeout 20m -run '^(TestModel|TestMutants)$$' -v ./appliance/fleet -schedules 100000
	go vet -tags fleet ./cmd/internal/fleettest
	HOLDFAST_TEST_PACKAGES=1 go test -tags fleet -count=1 -timeout 20m -v ./cmd/internal/fleettest
	HOLDFAST_TEST_PACKAGES=1 HOLDFAST_CONSOLE_NODES=3 go test -count=1 -timeout 20m -p 1 -run Console -v $$(grep -rl 'consoletest\.New(' --include='*_test.go' cmd | xargs -n 1 dirname | sort -u | sed 's|^|./|')

# Generated clients and generated requests; some minutes.
test-contract: install-packages
	@.ci/install-packages curl python3 python3-venv
	@.ci/contract

freeze-api:
	FREEZE_API=1 go test -count=1 ./web/operation -run TestFrozen

# Each parser of foreign bytes, for a short time. The files say which there are: to ask the tests
# would link those of every package. Those of a package are linked once.
fuzz:
	@mkdir -p build
	@go list -f '{{.ImportPath}} {{.Dir}}{{range .TestGoFiles}} {{.}}{{end}}{{range .XTestGoFiles}} {{.}}{{end}}' ./... | while read -r pkg dir files; do \
	  [ -n "$$files" ] || continue; \
	  targets=$$(cd "$$dir" && sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' $$files); \
	  [ -n "$$targets" ] || continue; \
	  go test -vet=off -c -fuzz . -o build/fuzz.test "$$pkg" || exit 1; \
	  for f in $$targets; do \
	    echo "fuzz $$pkg $$f"; \
	    (cd "$$dir" && "$(CURDIR)/build/fuzz.test" -test.run '^$$' -test.fuzz "^$$f\$$" -test.fuzztime $(FUZZTIME) -test.fuzzminimizetime 10x -test.fuzzcachedir "$$(go env GOCACHE)/fuzz/$$pkg") </dev/null || exit 1; \
	  done; \
	done

bench: install-packages build
	@go run ./cmd/internal/bench $(ARGS)

# What the parts of a request cost, each alone.
bench-parts:
	go test -run xxx -bench 'Verify|Body|Handler|Keyring|Framing|Encode|Append' -benchmem ./xks ./xks/sigv4 ./appliance/keyring ./appliance/audit ./appliance/audit/auditlog
	go test -run xxx -bench Decision -benchmem ./appliance/authz

# How long the server takes for each page of the console with a million keys and ten
# million records; some minutes, and some gigabytes of disk.
bench-console: install-packages
	go test ./web/console -run xxx -bench Pages -benchtime 20x -timeout 60m -args -console-keys 1000000 -console-records 10000000

# What fleets of one, two and three nodes answer, as ratios.
bench-fleet: install-packages
	@.ci/install-packages postgresql
	HOLDFAST_TEST_PACKAGES=1 go test -tags fleet ./cmd/internal/fleettest -run xxx -bench Throughput -benchtime 5x -timeout 30m
