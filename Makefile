# Two commands matter: `make demo` and `make test`. Both install what they need.
.PHONY: demo test count lint deny doc soak bench build-deps test-deps

CARGO ?= cargo

demo: build-deps
	$(CARGO) run --release -- demo

test: test-deps
	$(CARGO) test

# System calls and instructions of a request, of the release profile, against what was recorded:
# tests/counting/baseline.json, which RECORD=1 writes anew.
count: test-deps
	RECORD=$(RECORD) $(CARGO) test --release --test counting

lint:
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets -- -D warnings

# Licences, banned crates and sources on all platforms, and advisories, which are fetched from GitHub.
# The tests hold deny.toml against what is built here; cargo-deny itself takes long to install.
deny:
	$(CARGO) deny --version >/dev/null 2>&1 || $(CARGO) install cargo-deny --locked
	$(CARGO) deny --all-features check

doc:
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --no-deps

# Long runs: property tests with many more cases, and the fuzz targets where cargo-fuzz is there.
soak: test-deps
	scripts/soak

bench: build-deps
	$(CARGO) bench

build-deps:
	scripts/install-deps build

test-deps:
	scripts/install-deps build test
