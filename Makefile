# Everything a developer types. Tools are pinned and live in .tmp/bin; `make
# dev` and `make test` need only Go, make and git.
MAKEFLAGS += --no-print-directory
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

GO        ?= go
BIN       := $(CURDIR)/.tmp/bin
GOLANGCI  := $(BIN)/golangci-lint@$(shell sed -n '1s/.*golangci-lint \(v[0-9.]*\).*/\1/p' .golangci.yml)
BUF       := $(BIN)/buf@v1.75.0

# What to run: make test PKG=./lock/... TESTFLAGS=-v, make sim SEEDS=5000, make sim SEED=17 PKG=./lock.
PKG       ?= ./...
TESTFLAGS ?=
SEEDS     ?= 1000
SEED      ?=
RUN       ?= Simulation
# What `make check` leaves to `make test`: packages whose tests start clusters.
LONG      := engine/etcd|engine/embed|internal/e2e|examples/fenced-ledger|lab|lab/(host|vclock|vswitch|faultfs|workload|driver.*)
ARGS      ?=

# The race detector needs a C compiler; without one the tests run all the same.
RACE := $(shell test "`$(GO) env CGO_ENABLED`" = 1 && command -v "`$(GO) env CC`" >/dev/null 2>&1 && echo -race)
SAY_RACE = @test -n "$(RACE)" || echo "no C compiler: tests run without the race detector (Debian: apt-get install gcc libc6-dev)"

# go test is silent about what it skips; this is not.
SAY_SERVERS = @for s in etcd=etcd-server etcdctl=etcd-client postgres=postgresql redis-server=redis-server redis-sentinel=redis-sentinel; do \
	{ command -v $${s%=*} || ls /usr/lib/postgresql/*/bin/$${s%=*}; } >/dev/null 2>&1 || \
	echo "no $${s%=*}: the tests that start one are skipped (Debian: apt-get install $${s\#*=})"; done

# Tests that start machines and servers come after the others, and the lab's runs
# of real systems by themselves: on two cores a starved server looks broken.
MACHINES := /lab/(host|vclock|vswitch|faultfs|workload|driver.*)$$
GO_TEST  = $(GO) test $(RACE) -timeout 20m $(TESTFLAGS) $(1)
IN_TURN  = all=`$(GO) list ./...` || exit 1; code=0; \
	$(GO) test $(RACE) -timeout 20m $(TESTFLAGS) $$(echo "$$all" | grep -vE '$(MACHINES)|/lab$$') || code=1; \
	$(GO) test $(RACE) -timeout 20m $(TESTFLAGS) $$(echo "$$all" | grep -E '$(MACHINES)') || code=1; \
	$(GO) test $(RACE) -timeout 20m $(TESTFLAGS) ./lab || code=1; exit $$code

.PHONY: help
help: ## Say what each target does
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | sort | awk -F '\t' '{printf "  make %-9s %s\n", $$1, $$2}'

.PHONY: holdfast
holdfast: ## Build the binary, ./holdfast
	$(GO) build -o holdfast ./cmd/holdfast

.PHONY: dev
dev: holdfast ## Run three nodes on this machine, with commands to try (ARGS=…)
	exec ./holdfast dev $(ARGS)

.PHONY: test
test: ## Run every test (PKG=./lock/... TESTFLAGS=-v)
	$(SAY_RACE)
	$(SAY_SERVERS)
	@$(if $(filter ./...,$(PKG)),$(IN_TURN),$(call GO_TEST,$(PKG)))
	$(if $(wildcard bench/go.mod),cd bench && $(GO) vet ./...)

.PHONY: check
check: lint fresh ## Before each commit: format, lint, generated files, short tests
	$(SAY_RACE)
	$(GO) test $(RACE) -short -timeout 5m $(TESTFLAGS) $$($(GO) list $(PKG) | grep -vE '/($(LONG))$$')

.PHONY: lint
lint: $(GOLANGCI) ## Check format and lint (mend with FIX=1)
	$(if $(FIX),$(GOLANGCI) fmt,$(GOLANGCI) fmt --diff)
	$(GOLANGCI) run $(if $(FIX),--fix) $(PKG)
	@$(MAKE) lintproto

.PHONY: lintproto
lintproto: $(BUF)
	$(BUF) lint

.PHONY: generate
generate: $(BUF) ## Write internal/gen from proto
	GOBIN=$(BIN) $(GO) install google.golang.org/protobuf/cmd/protoc-gen-go connectrpc.com/connect/cmd/protoc-gen-connect-go
	PATH="$(BIN):$$PATH" $(BUF) generate

# Generated code is committed; it must be what the committed sources give.
.PHONY: fresh
fresh:
	@$(MAKE) generate
	@git update-index -q --refresh || true
	@test -z "`git status --porcelain -- internal/gen proto`" || { \
		git status --short -- internal/gen proto; \
		echo "internal/gen is not what proto gives: run 'make generate' and commit both"; exit 1; }

.PHONY: sim
sim: ## Run simulations: SEEDS=how many, or SEED=one, of PKG
	$(SAY_RACE)
	HOLDFAST_SEEDS=$(SEEDS) HOLDFAST_SEED=$(SEED) $(GO) test $(RACE) -count 1 -timeout 0 -run '$(RUN)' $(TESTFLAGS) $(PKG)

.PHONY: lab
lab: holdfast ## Run every scenario of the lab against real servers (root; ARGS="redis-kill --rounds 5")
	./holdfast lab battery $(ARGS)

.PHONY: lab-night
lab-night: holdfast ## The same for hours, with rising seeds (ARGS="--for 8h")
	./holdfast lab battery --for 8h $(ARGS)

.PHONY: bench
bench: ## Measure against the peers, side by side (ARGS=-json)
	cd bench && $(GO) run . $(ARGS)

NO_TOOL = { echo "cannot install $(@F): is there a network? Without one, put the binary at $@ by hand"; exit 1; }

$(GOLANGCI):
	@mkdir -p $(BIN)
	@echo "installing $(@F) into .tmp/bin"
	@GOBIN=$(BIN) $(GO) install github.com/golangci/golangci-lint/v2/cmd/$(@F) || $(NO_TOOL)
	@mv $(BIN)/golangci-lint $@

$(BUF):
	@mkdir -p $(BIN)
	@echo "installing $(@F) into .tmp/bin"
	@GOBIN=$(BIN) $(GO) install github.com/bufbuild/buf/cmd/$(@F) || $(NO_TOOL)
	@mv $(BIN)/buf $@
