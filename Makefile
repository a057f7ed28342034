# What people and the CI run; tools/check.sh does the work. Needs Rust; the rest comes from apt (as root).

.DEFAULT_GOAL := help
.PHONY: help setup test test-samba test-kernel soak compare fmt lint unit release library no-os msrv docs samba samba-selftest torture demo bench fuzz clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install what the tests need (apt, as root)
	@tools/check.sh setup

test: ## everything that must hold
	@tools/check.sh setup fmt lint unit release library no-os msrv docs samba smbd samba_library torture demo kernel

test-samba: ## the tests with a real smbd alone: that of make samba, or of the build tree SMBDIRECT_SAMBA
	@tools/check.sh smbd samba_library

test-kernel: ## Linux's own client and server, in QEMU, against ours (KERNEL_MIB=256: the largest file, KERNEL_TESTS=)
	@tools/samba.sh build
	@KERNEL_MIB=$${KERNEL_MIB:-256} tools/check.sh setup kernel

soak: ## an hour of mixed load by Linux's client (MINUTES=)
	@tools/samba.sh build
	@tools/check.sh soak

compare: ## smbd beside ksmbd, by the same fio jobs of Linux's client
	@tools/samba.sh build
	@tools/check.sh compare

fmt: ## is the code formatted
	@tools/check.sh fmt

lint: ## clippy, with each set of features that is used; a warning is an error
	@tools/check.sh lint

unit: ## all tests, with overflow and debug checks (the fuzz corpus is among them)
	@tools/check.sh unit

release: ## all tests again as users get the code, optimized
	@tools/check.sh release

library: ## libsmbdirect.a, what smbd links
	@tools/check.sh library

no-os: ## the protocol layers and the engine link without an operating system
	@tools/check.sh no-os

msrv: ## builds with the oldest Rust that Cargo.toml promises
	@tools/check.sh msrv

docs: ## the documentation builds without warnings
	@tools/check.sh docs

samba: ## Samba 4.22 with this library: fetched, patched and built in ~/.cache/smbdirect
	@tools/samba.sh build

samba-selftest: ## Samba's own tests over SMB Direct, or those that TESTS= matches
	@tools/samba.sh selftest $(TESTS)

torture: ## smbtorture's smb2 suites over TCP and over SMB Direct; makes docs/torture.md (TORTURE= has options)
	@tools/samba.sh build
	@cargo build --release --locked --workspace --bins
	@tools/torture.py $(TORTURE)

demo: ## a file goes to a share and back by RDMA (KEEP=1 leaves the server running)
	@tools/demo.py

bench: ## benchmarks
	@tools/check.sh bench

fuzz: ## fuzz each target for FUZZ_SECONDS (600) seconds; nightly Rust and cargo-fuzz
	@tools/check.sh fuzz

clean: ## remove what was built
	cargo clean
	rm -rf fuzz/target tests/no-os/Cargo.lock
