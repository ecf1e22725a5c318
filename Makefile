GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
LDFLAGS := -s -w -X main.version=$(VERSION)
export CGO_ENABLED ?= 0

.PHONY: build demo test check race lint vuln fuzz e2e bench bench-build bench-relay bench-serve faults clean

build: ## the programs, into bin/
	$(GO) build -ldflags '$(LDFLAGS)' -o bin/ ./cmd/...

demo: build ## the main job, end to end, on this machine
	$(GO) build -o bin/demo ./examples/demo
	for arch in amd64 arm64; do \
		GOFLAGS= CGO_ENABLED=0 GOOS=linux GOARCH=$$arch $(GO) build -trimpath -buildvcs=false -o /dev/null ./examples/robot-app || exit 1; \
	done # the standard library for both platforms, as the example's images need it
	bin/demo $(if $(DEMO_EXIT),-exit)

test: build ## unit, script and integration tests
	$(GO) test -timeout 20m ./...

check: lint vuln race ## what a change must pass

lint:
	@test -z "$$(gofmt -l .)" || { gofmt -l .; echo 'run gofmt -w on these'; exit 1; }
	$(GO) vet ./...
	$(GO) vet -tags e2e,bench,faults ./integration ./registry/store
	$(GO) run honnef.co/go/tools/cmd/staticcheck@v0.6.1 -tags e2e,bench,faults ./...

vuln: ## known vulnerabilities, where the database can be reached
	@if curl -sfo /dev/null --max-time 10 https://vuln.go.dev/index/db.json; then \
		$(GO) run golang.org/x/vuln/cmd/govulncheck@v1.1.4 ./...; \
	else echo 'govulncheck: its database cannot be reached from here, left out'; fi

race: build
	CGO_ENABLED=1 $(GO) test -race -timeout 30m ./...

e2e: build ## the heavy suites: real cosign, Helm 4, S3, kill -9, load, hostile clients
	$(GO) test -tags e2e -count 1 -v -timeout 60m ./integration ./registry/store

faults: ## every write, sync, rename and removal of the relay's changes goes wrong in each way; power cuts at random (needs root and /dev/fuse)
	$(GO) test -tags faults -count 1 -v -run 'TestFaults$$|TestPowerCuts$$' -timeout 60m ./integration

bench: build ## memory and time of build and import with a 1 GiB layer
	$(GO) test -tags bench -count 1 -v -run 'TestBench(LargeLayer|Build)' -timeout 30m ./integration

bench-build: build ## CPU, memory and disk of building 1.7 GB, as a ratio to copying and hashing those bytes
	$(GO) test -tags bench -count 1 -v -run TestBenchBuild -timeout 30m ./integration

bench-relay: build ## import of 1.7 GB, activation, collection of garbage, the journal: as ratios, and against their bars
	$(GO) test -tags bench -count 1 -v -run 'TestBench(Import|Activate|GC)$$' -timeout 30m ./integration
	$(GO) test -run '^$$' -bench . ./relay/journal

bench-serve: build ## serving robots, side by side with nginx, distribution's registry and git http-backend
	$(GO) test -tags bench -count 1 -v -run TestBenchServe -timeout 60m ./integration

FUZZTIME ?= 30s
fuzz: ## every fuzz target for FUZZTIME
	@for pkg in $$($(GO) list ./...); do \
		for f in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz'); do \
			echo "$$pkg $$f"; $(GO) test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 5x $$pkg || exit 1; \
		done; \
	done

clean:
	rm -rf bin .demo
