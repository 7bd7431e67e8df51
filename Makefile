# hostport: what can be made of it. `make` alone lists it.

# Static binaries: a plugin is copied onto nodes of any distribution. VCS
# stamping fails in a clone that belongs to somebody else, so the version comes
# from VERSION: as it is on the commit of its tag, with the commit elsewhere.
export CGO_ENABLED ?= 0
export GOFLAGS := -buildvcs=false $(GOFLAGS)

RELEASE  := v$(shell cat VERSION)
COMMIT   := $(shell git describe --always --dirty --exclude '*' 2>/dev/null)
TAG      := $(shell git describe --exact-match --dirty --match $(RELEASE) 2>/dev/null)
BUILD    ?= $(if $(filter $(TAG),$(RELEASE)),$(RELEASE),$(RELEASE)$(addprefix -g,$(COMMIT)))
LDFLAGS  := -s -w -X main.build=$(BUILD)
# The repository that the image is called by, and pushed to.
IMAGE    ?= registry.example/hostport
# The time that files in the image have: the commit's.
export SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 0)
FUZZTIME ?= 1m
DURATION ?= 30m
RESULTS  ?= docs/performance/results.jsonl
DESTDIR  ?=
CNI_BIN  ?= /opt/cni/bin
# What test/debian.sh fetches for test-tools and test-kernels.
SUITES   ?= bullseye bookworm trixie
# Of test-kernels: scenes, each as after a slash in go test -run, and boots. All is nothing.
SCENES   ?=
BOOTS    ?=
GUESTS   ?= 3
# What depends on the kernel: a look at every hook, module and set that is used.
CI_SCENES := /v4/(tcp_from|udp_from|the_node_through_127|host_IP|passing|a_Service_wins|a_flush|a_restored|SCTP|kube-proxy.s_IPVS|a_flowtable|an_uplink|STATUS) \
	/v6/(tcp_from|udp_from|an_uplink|a_flowtable|SCTP_assoc)
DEBIAN   ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/hostport/debian
LINT     := go tool -modfile=$(CURDIR)/.ci/lint.mod golangci-lint
# The modules of their own keep what only they need out of the product's go.mod.
NESTED   := build/image test/charts test/containerd test/kubernetes test/bench/plot

.PHONY: help
help: ## List what can be made
	@awk -F ': .*## ' '/^[a-z-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build the plugin, the operator's tool and the agent into bin/
	go build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./cmd/...

.PHONY: install
install: build ## Install them: DESTDIR, CNI_BIN=/opt/cni/bin
	install -D -m 755 bin/hostport $(DESTDIR)$(CNI_BIN)/hostport
	install -D -m 755 bin/hostportctl $(DESTDIR)/usr/local/bin/hostportctl
	install -D -m 755 bin/hostport-agent $(DESTDIR)/usr/local/bin/hostport-agent

.PHONY: image
image: ## Build the container image, bin/hostport-image.tar: IMAGE=repository
	cd build/image && go run . -version $(BUILD) -name $(IMAGE) -archive $(CURDIR)/bin/hostport-image.tar

.PHONY: image-push
image-push: ## Build the container image and push it: IMAGE=repository
	cd build/image && go run . -version $(BUILD) -name $(IMAGE) -push

.PHONY: manifests
manifests: ## Write conf/kubernetes from the Helm chart
	cd test/charts && go test -count=1 -run '^TestDefault$$' . -update

.PHONY: man
man: ## Write hostportctl's manual pages into bin/man
	go run -tags man -ldflags '$(LDFLAGS)' ./cmd/hostportctl man bin/man

.PHONY: demo
demo: build ## Show it at work: pods, curl and the rules (root)
	@test/packages.sh demo
	@test/demo/run.sh

# What takes longer has a target of its own.
.PHONY: test
test: ## Unit, golden, fuzz seed and kernel tests (root)
	test/packages.sh test
	test/run.sh . -timeout 30m $$(go list ./... | grep -v -e /test/faults -e /test/upgrade -e /test/agent)

.PHONY: test-faults
test-faults: ## Deaths at every step, races, a model, damaged state (root, minutes)
	test/packages.sh test
	test/run.sh . -timeout 30m ./test/faults

.PHONY: test-upgrade
test-upgrade: ## Versions of the past and the next one on one node (root)
	test/packages.sh test
	test/run.sh . -timeout 20m ./test/upgrade

.PHONY: test-agent
test-agent: ## The agent on a node that other programs change (root, minutes)
	test/packages.sh test
	test/run.sh . -timeout 20m ./test/agent

# A scene with packets for each reason, on every backend and in both families.
.PHONY: test-explain
test-explain: ## The scenes of hostportctl explain and trace (root, minutes)
	test/packages.sh test
	test/run.sh . -timeout 30m -tags explain -run '^(TestExplain|TestTrace|TestProbe)' ./test/integration

.PHONY: test-image
test-image: ## The image: contents, the same digest twice, each platform's programs run (root)
	test/packages.sh image
	test/run.sh build/image -timeout 20m ./...

.PHONY: test-charts
test-charts: ## Helm chart, manifests and alerts, by helm, kustomize and promtool
	test/run.sh test/charts -timeout 30m ./...

# The tools of each suite are unpacked, not installed, and come first on the PATH.
.PHONY: test-tools
test-tools: ## What iptables and nft have a say in, with those of each SUITES (root, minutes)
	test/packages.sh test
	test/debian.sh $(DEBIAN) tools $(SUITES)
	for s in $(SUITES); do \
		echo "--- tools of $$s"; \
		PATH=$(DEBIAN)/$$s/tools/bin:$$PATH test/run.sh . -tags tools -timeout 20m -run '^(TestTools|TestAdopt.*)$$' ./test/integration || exit 1; \
	done

# Guests in qemu, ten times slower than this machine. What came of the scenes is in
# docs/compatibility.jsonl too: a run of some SCENES or BOOTS replaces those.
.PHONY: test-kernels
test-kernels: ## Scenes on the kernels of SUITES; writes docs/compatibility.md (root, an hour)
	test/packages.sh kernels containerd
	test/debian.sh $(DEBIAN) tools $(SUITES)
	test/debian.sh $(DEBIAN) kernel $(SUITES)
	test/debian.sh $(DEBIAN) firewalld trixie
	test/debian.sh $(DEBIAN) extra ipvsadm firewalld ufw dbus-daemon
	go run ./test/kernels -all -guests $(GUESTS) -scenes '$(SCENES)' -boots '$(BOOTS)' \
		-results docs/compatibility.jsonl -write docs/compatibility.md $(DEBIAN) $(SUITES)

.PHONY: test-kernels-ci
test-kernels-ci: ## Some scenes on the kernels of SUITES (root, minutes)
	test/packages.sh kernels
	test/debian.sh $(DEBIAN) tools $(SUITES)
	test/debian.sh $(DEBIAN) kernel $(SUITES)
	test/debian.sh $(DEBIAN) extra ipvsadm
	go run ./test/kernels -scenes '$(CI_SCENES)' $(DEBIAN) $(SUITES)

.PHONY: test-containerd
test-containerd: ## The tests with containerd, old and new, and Podman (root; the first time builds containerd)
	test/packages.sh containerd
	test/run.sh test/containerd -timeout 20m ./...

.PHONY: test-kubernetes
test-kubernetes: ## The tests on whole Kubernetes nodes, two at a time (root, minutes)
	test/packages.sh kubernetes
	test/run.sh test/kubernetes -parallel 2 -timeout 45m ./...

.PHONY: test-operator
test-operator: ## Of these: a node's life with the agent, installed by helm (root, minutes)
	test/packages.sh kubernetes
	test/run.sh test/kubernetes -parallel 2 -timeout 45m -run '^TestOperator' ./...

.PHONY: race
race: ## Tests without a world of their own, under the race detector (root, minutes)
	test/packages.sh race
	CGO_ENABLED=1 test/run.sh . -race -timeout 20m ./pkg/... ./internal/...

.PHONY: lint
lint: ## Check the code, in every module
	$(LINT) run
	for m in $(filter-out test/kubernetes,$(NESTED)); do (cd $$m && $(LINT) run --config $(CURDIR)/.golangci.yml) || exit 1; done
	# Linters type-check what is imported, which would be all of Kubernetes: go test's own vet has to do.
	cd test/kubernetes && $(LINT) fmt --diff --config $(CURDIR)/.golangci.yml

.PHONY: fmt
fmt: ## Format the code, in every module
	$(LINT) fmt
	for m in $(NESTED); do (cd $$m && $(LINT) fmt --config $(CURDIR)/.golangci.yml) || exit 1; done

.PHONY: fuzz
fuzz: ## Run each fuzz target for FUZZTIME=1m (root)
	test/packages.sh test
	FUZZTIME=$(FUZZTIME) test/fuzz.sh

.PHONY: golden
golden: ## Rewrite the expected rulesets and outputs in testdata/ and docs/explain.md (root)
	test/packages.sh test
	go test -run "^TestGolden" ./internal/iptables -update
	go test -run "^TestGolden" ./internal/nftables -update
	go test -run "^TestGolden" ./cmd/hostportctl -update
	go test -tags explain -run "^TestExplainPage" ./test/integration -update

.PHONY: bench
bench: ## Measure beside the peers, write docs/performance.md (root, half an hour)
	test/packages.sh test
	test/bench/run.sh $(RESULTS)
	cd test/bench/plot && go run . $(CURDIR)/$(RESULTS) $(CURDIR)/docs

BASE ?= bada6ac

.PHONY: bench-compare
bench-compare: build ## Measure beside an earlier commit, BASE=bada6ac: ratios in one run (root)
	test/packages.sh test
	test/bench/run.sh bin/compare.jsonl -run '^TestCompare$$' -base $(BASE)

# The results of make bench stay as they are.
.PHONY: bench-runtime
bench-runtime: ## Measure 50 sandboxes at once through containerd (root, minutes)
	test/packages.sh containerd
	rm -f $(dir $(RESULTS))runtime.jsonl
	cd test/containerd && go test -tags bench -count=1 -timeout 60m -v -run '^TestStart$$' . -results $(abspath $(dir $(RESULTS)))/runtime.jsonl
	cd test/bench/plot && go run . $(CURDIR)/$(RESULTS) $(CURDIR)/docs

# Two outputs are compared by
# go run golang.org/x/perf/cmd/benchstat@v0.0.0-20260908200009-22c9c6c9d4da OLD NEW
.PHONY: bench-micro
bench-micro: ## Benchmarks of single functions, for benchstat (root)
	go test -run '^$$' -bench . -benchmem ./pkg/... ./internal/...

.PHONY: soak
soak: ## Pod churn with faults, DURATION=30m on each backend (root)
	test/packages.sh test
	for b in iptables-nft nftables; do \
		BACKEND=$$b DURATION=$(DURATION) go test -tags soak -count=1 -timeout 0 -v -run '^TestSoak$$' ./test/faults || exit 1; \
	done

.PHONY: clean
clean: ## Remove what was built
	rm -rf bin test/kubernetes/bin
