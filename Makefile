# Two commands matter: `make demo` and `make test`. Both install what they need.
.PHONY: demo test count lint doc soak bench build-deps test-deps

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
