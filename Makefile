# Thin wrappers: each target is a line or two that can also be typed by hand.

# rustup's cargo before Debian's; /usr/sbin holds kamailio and is not on everybody's PATH; `make check` installs its tool in
# target/tools.
export PATH := $(HOME)/.cargo/bin:$(PATH):/usr/sbin:$(CURDIR)/target/tools/bin

LAB := target/debug/lab

.DEFAULT_GOAL := help
.PHONY: help demo test test-media up down bench check fuzz deps build package clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

demo: deps build ## start everything, register two phones, make a call, show what was stored, stop everything
	$(LAB) demo

test: deps-all release ## all the tests, as CI runs them
	scripts/test

test-media: deps-all build ## calls with audio through media nodes; with FREESWITCH=/path/to/freeswitch through that one
	cargo test --test media --test freeswitch

up: deps build ## start the demo's servers and leave them running; see target/cluster.env (NODES=n of each role, CASSANDRA_NODES=n)
	$(LAB) up

down: ## stop what `make up` started
	@if [ -e target/cluster.json ]; then $(LAB) down; else echo "nothing is up"; fi

bench: deps-all build ## this system and the stock one side by side: target/bench/
	cargo run --release --package bench

check: lint ## format, lints, licences and banned dependencies; no servers
	@command -v cargo-deny >/dev/null || $(MAKE) --no-print-directory cargo-deny
	cargo deny check bans licenses sources

.PHONY: lint
lint:
	vendor/fetch-headers
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo check --manifest-path fuzz/Cargo.toml --target-dir target --locked

.PHONY: cargo-deny
cargo-deny:
	@echo "cargo-deny is missing: building it once, in target/tools; this takes some minutes"
	cargo install --quiet --locked --root target/tools cargo-deny@0.20.2

FUZZ_TARGETS := sip_uri path authorization register_decision protocol
FUZZ_SECONDS ?= 60

fuzz: ## fuzz every parser for FUZZ_SECONDS each (60): needs a nightly Rust and cargo-fuzz, and says so
	@cargo +nightly fuzz --version >/dev/null 2>&1 || { echo "fuzzing needs a nightly Rust and cargo-fuzz: run" \
		"'rustup toolchain install nightly' and 'cargo install --locked cargo-fuzz'"; exit 1; }
	for target in $(FUZZ_TARGETS); do \
		cargo +nightly fuzz run $$target -- -max_total_time=$(FUZZ_SECONDS) || exit 1; \
	done

deps: ## install what is missing from Debian, or say what to install
	@scripts/deps

.PHONY: deps-all
deps-all:
	@scripts/deps --all

build: release ## the module, sipctl and Carna, optimised, in target/release/, and the lab
	cargo build --package lab

.PHONY: release
release:
	vendor/fetch-headers
	cargo build --release --package cassandra --package sipctl --package carna

package: deps-package build cyclonedx ## Debian packages for the Kamailio installed here, their bills of materials and licenses: target/package/
	scripts/package

.PHONY: deps-package
deps-package:
	@scripts/deps --package

# Without optimisation: it is built sooner, and runs for a second.
.PHONY: cyclonedx
cyclonedx:
	@command -v cargo-cyclonedx >/dev/null || CARGO_PROFILE_DEV_DEBUG=0 \
		cargo install --quiet --locked --debug --root target/tools cargo-cyclonedx@0.5.9

clean: down ## remove all that was built and downloaded
	cargo clean
