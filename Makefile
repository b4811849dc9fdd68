# What a person types. README.md explains the first two.

GO      ?= go
TAGS    := urfave_cli_no_docs
BUILD   := CGO_ENABLED=0 $(GO) build -trimpath -tags $(TAGS) -ldflags "-s -w"
GOTEST  := CGO_ENABLED=0 $(GO) test -tags $(TAGS)

BENCH   := CGO_ENABLED=0 $(GO) run -tags $(TAGS) ./bench

.PHONY: build demo test test-deps lint generate arm64 bench bench-net bench-pull init-cost install clean

build: ## the static binary ./skiff
	$(BUILD) -o skiff .

demo: build ## run a container: no registry, no network
	./skiff run --rm builtin:hello

test: test-deps ## all tests that this user and machine can run
	$(GOTEST) ./...

test-deps: ## Debian packages that the tests use
	@.ci/deps

lint: ## what continuous integration checks of the text
	@.ci/lint

arm64: ## the other architecture builds
	GOARCH=arm64 $(BUILD) -o /dev/null .

bench: ## starts, crowds, memory beside peers; about ten minutes (docs/benchmarks.md)
	$(BENCH) $(BENCHFLAGS)

bench-net: ## the relay beside pasta and slirp4netns; as root, with BENCHFLAGS="-users NAME"
	$(BENCH) $(BENCHFLAGS) net

bench-pull: ## pulls of whole images beside peers; docker and ctr where their daemons run
	$(BENCH) $(BENCHFLAGS) pull

init-cost: ## what package initialisation costs each start; fails above the budget
	$(BENCH) -budget init

generate: ## rewrite generated files
	$(GO) generate ./...

install: build
	install -D -m 755 skiff $(DESTDIR)/usr/local/bin/skiff

clean:
	rm -f skiff
