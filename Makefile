# SPDX-License-Identifier: GPL-2.0-or-later
# The commands for people and the CI; tools/check.sh does the work. You need Rust; apt installs the rest (as root).

.DEFAULT_GOAL := help
.PHONY: help setup deb test-deb test-systemd deb-samba test-deb-samba build install install-library install-programs install-strip uninstall test test-newest test-samba test-kernel test-module test-module-debug soak compare fmt lint unit release library reproducible no-os module msrv docs samba samba-selftest samba-check mutations torture demo dashboard counts bench miri fuzz clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-17s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install what the tests need (apt, as root)
	@tools/check.sh setup

build: ## build what make install installs, optimized
	@tools/build.sh

test: ## run everything that must pass before a merge
	@tools/check.sh setup fmt lint unit release library reproducible no-os module msrv docs samba smbd samba_library torture demo counts kernel

test-newest: ## run the same as make test, with the newest Samba that there are patches for
	@BASE=4.24 $(MAKE) --no-print-directory test

test-samba: ## run only the tests that need a real smbd, built by make samba or in the build tree SMBDIRECT_SAMBA
	@tools/check.sh smbd samba_library

test-kernel: ## test against Linux's own client and server, in QEMU (KERNEL_MIB=256: the largest file, KERNEL_TESTS=)
	@tools/samba.sh build
	@KERNEL_MIB=$${KERNEL_MIB:-256} tools/check.sh setup kernel

test-module: ## test the kernel module for longer: ten minutes of fuzzing, 200 kills, smbtorture (FUZZ_SECONDS=, KILLS=)
	@tools/samba.sh build
	@tools/check.sh setup module_long

test-module-debug: ## test the kernel module on a Linux 7.2 that checks memory and locks, with faults (an hour or more)
	@tools/samba.sh build
	@tools/check.sh setup module_debug

soak: ## run an hour of mixed load from Linux's client (MINUTES=)
	@tools/samba.sh build
	@tools/check.sh soak

compare: ## measure smbd and ksmbd with the same fio jobs of Linux's client
	@tools/samba.sh build
	@tools/check.sh compare

fmt: ## check that the code is formatted
	@tools/check.sh fmt

lint: ## run clippy with each set of features that is used; a warning is an error
	@tools/check.sh lint

unit: ## run all tests with overflow and debug checks (including the fuzz corpus)
	@tools/check.sh unit

release: ## run the library's tests again on the optimized code that users get
	@tools/check.sh release

library: ## check libsmbdirect, shared and static
	@tools/check.sh library

reproducible: ## check that a build in another directory makes the same bytes (ALL=1: also the programs, in minutes)
	@tools/check.sh reproducible

deb: ## build packages for Debian 12 and 13, in target/deb (KERNEL=1: smbdirect-dkms, too)
	@tools/deb.sh build

test-deb: ## install, use, upgrade and purge the packages in a fresh Debian (SUITE=bookworm or trixie; as root)
	@tools/deb.sh test

test-systemd: ## restart, reload and upgrade the package under load, in a Debian 13 with systemd, in QEMU (as root)
	@tools/samba.sh build
	@tools/deb.sh systemd

deb-samba: ## build Debian 13's samba with SMB Direct, in target/deb-samba (an hour or more; as root)
	@tools/deb_samba.sh build

test-deb-samba: ## install, serve with, update and purge these packages in a fresh Debian 13 (as root)
	@tools/deb_samba.sh test

module: ## compile the engine of the kernel module, and check what it needs
	@tools/check.sh module

no-os: ## check that the protocol layers and the engine link without an operating system
	@tools/check.sh no-os

msrv: ## build with the oldest Rust that Cargo.toml promises
	@tools/check.sh msrv

docs: ## check links and spelling, and that the documentation builds without warnings
	@tools/check.sh docs

samba: ## fetch, patch and build Samba 4.22 with this library, in ~/.cache/smbdirect (BASE=4.24: that release)
	@tools/samba.sh build

samba-check: ## check each patch for Samba: form, build, warnings, tests over TCP (about an hour)
	@tools/samba.sh check

mutations: ## remove each check of RDMA transforms from smbd, and see that a test notices (takes minutes)
	@tools/check.sh mutations

samba-selftest: ## run Samba's own tests over SMB Direct, or those that match TESTS=
	@tools/samba.sh selftest $(TESTS)

torture: ## run smbtorture's smb2 suites over TCP and over SMB Direct; writes docs/torture.md (TORTURE=options)
	@tools/samba.sh build
	@cargo build --release --locked --workspace --bins
	@tools/torture.py $(TORTURE)

demo: ## copy a file to a share and back by RDMA (KEEP=1 leaves the server running)
	@tools/demo.py

dashboard: ## draw the dashboard for Grafana in Chromium, with data of a real Prometheus, and test the alerts
	@tools/samba.sh build
	@tools/check.sh dashboard

counts: ## count smbd's and smbdirectd's system calls, sleeps and instructions for an operation of 4 KiB
	@tools/samba.sh build
	@INSTRUCTIONS=1 tools/check.sh counts

bench: ## run the benchmarks
	@tools/check.sh bench

miri: ## run the engine's tests under Miri, in about 15 minutes (nightly Rust with miri and rust-src)
	@tools/check.sh miri

fuzz: ## fuzz each target for FUZZ_SECONDS (600) seconds (nightly Rust and cargo-fuzz)
	@tools/check.sh fuzz

# Where to install things. tools/build.sh puts them into BUILT: installing builds nothing, because root may not have
# Rust.
PREFIX ?= /usr/local
SBINDIR ?= $(PREFIX)/sbin
LIBDIR ?= $(PREFIX)/lib
INCLUDEDIR ?= $(PREFIX)/include
PKGCONFIGDIR ?= $(LIBDIR)/pkgconfig
MANDIR ?= $(PREFIX)/share/man
BASHCOMPLETIONDIR ?= $(PREFIX)/share/bash-completion/completions
ZSHCOMPLETIONDIR ?= $(PREFIX)/share/zsh/site-functions
FISHCOMPLETIONDIR ?= $(PREFIX)/share/fish/vendor_completions.d
# smbdirectd always looks for its configuration in /etc, even if it is installed elsewhere.
SYSCONFDIR ?= /etc
SYSTEMDDIR ?= $(PREFIX)/lib/systemd/system
SYSUSERSDIR ?= $(PREFIX)/lib/sysusers.d
BUILT ?= $(or $(CARGO_TARGET_DIR),target)/$(if $(CARGO_BUILD_TARGET),$(CARGO_BUILD_TARGET)/)release

INSTALL ?= install
INSTALL_PROGRAM ?= $(INSTALL)
STRIP ?= strip

VERSION = $(shell sed -n '/^\[workspace.package\]/,/^\[package\]/ s/^version = "\(.*\)"/\1/p' Cargo.toml)
ABI = $(shell sed -n 's/^pub const SMBDIRECT_ABI_VERSION: u32 = \([0-9]*\);/\1/p' src/ffi/status.rs)
PROGRAMS = smbdirectd smbdirectctl smbdirectctl-bench
# The programs whose words shells can complete.
COMPLETED = smbdirectd smbdirectctl
SO = libsmbdirect.so

install: built install-library install-programs ## install what make build has built (PREFIX=/usr/local, DESTDIR=, LIBDIR=, ...)

install-strip: ## install the same, without debug information
	@$(MAKE) --no-print-directory install INSTALL_PROGRAM='$(INSTALL) -s --strip-program=$(STRIP)'
	$(STRIP) --strip-debug '$(DESTDIR)$(LIBDIR)/libsmbdirect.a'

.PHONY: built
built:
	@[ -e '$(BUILT)/$(SO).$(ABI)' ] && [ -e '$(BUILT)/smbdirectctl-bench' ] || \
		{ echo 'nothing to install in $(BUILT): run make build first' >&2; exit 1; }

install-library:
	$(INSTALL) -d '$(DESTDIR)$(LIBDIR)' '$(DESTDIR)$(INCLUDEDIR)' '$(DESTDIR)$(PKGCONFIGDIR)'
	$(INSTALL_PROGRAM) -m 644 '$(BUILT)/$(SO).$(ABI)' '$(DESTDIR)$(LIBDIR)/$(SO).$(ABI).$(VERSION)'
	ln -sf '$(SO).$(ABI).$(VERSION)' '$(DESTDIR)$(LIBDIR)/$(SO).$(ABI)'
	ln -sf '$(SO).$(ABI)' '$(DESTDIR)$(LIBDIR)/$(SO)'
	$(INSTALL) -m 644 '$(BUILT)/libsmbdirect.a' '$(DESTDIR)$(LIBDIR)'
	$(INSTALL) -m 644 include/smbdirect.h '$(DESTDIR)$(INCLUDEDIR)'
	sed -e 's,@PREFIX@,$(PREFIX),; s,@LIBDIR@,$(LIBDIR),; s,@INCLUDEDIR@,$(INCLUDEDIR),; s,@VERSION@,$(VERSION),' \
		contrib/smbdirect.pc.in >'$(DESTDIR)$(PKGCONFIGDIR)/smbdirect.pc'

install-programs:
	$(INSTALL) -d '$(DESTDIR)$(SBINDIR)' '$(DESTDIR)$(SYSTEMDDIR)' '$(DESTDIR)$(SYSUSERSDIR)' '$(DESTDIR)$(SYSCONFDIR)/smbdirect'
	$(INSTALL) -d '$(DESTDIR)$(MANDIR)/man5' '$(DESTDIR)$(MANDIR)/man8'
	$(INSTALL_PROGRAM) -m 755 $(PROGRAMS:%='$(BUILT)/%') '$(DESTDIR)$(SBINDIR)'
	sed -e 's,/usr/sbin/,$(SBINDIR)/,' contrib/smbdirectd.service >'$(DESTDIR)$(SYSTEMDDIR)/smbdirectd.service'
	$(INSTALL) -m 644 contrib/smbdirectd.sysusers.conf '$(DESTDIR)$(SYSUSERSDIR)/smbdirectd.conf'
	$(INSTALL) -m 644 docs/man/*.5 '$(DESTDIR)$(MANDIR)/man5'
	$(INSTALL) -m 644 docs/man/*.8 '$(DESTDIR)$(MANDIR)/man8'
	$(INSTALL) -d '$(DESTDIR)$(BASHCOMPLETIONDIR)' '$(DESTDIR)$(ZSHCOMPLETIONDIR)' '$(DESTDIR)$(FISHCOMPLETIONDIR)'
	for program in $(COMPLETED); do \
		$(INSTALL) -m 644 contrib/completions/$$program.bash "$(DESTDIR)$(BASHCOMPLETIONDIR)/$$program" && \
		$(INSTALL) -m 644 contrib/completions/_$$program '$(DESTDIR)$(ZSHCOMPLETIONDIR)' && \
		$(INSTALL) -m 644 contrib/completions/$$program.fish '$(DESTDIR)$(FISHCOMPLETIONDIR)' || exit 1; \
	done
	[ -e '$(DESTDIR)$(SYSCONFDIR)/smbdirect/smbdirectd.toml' ] || \
		$(INSTALL) -m 644 contrib/smbdirectd.toml '$(DESTDIR)$(SYSCONFDIR)/smbdirect/smbdirectd.toml'

uninstall: ## remove what make install installed, with the same variables; the configuration stays
	rm -f $(addprefix '$(DESTDIR)$(LIBDIR)'/,libsmbdirect.a $(SO) $(SO).$(ABI) $(SO).$(ABI).$(VERSION))
	rm -f '$(DESTDIR)$(PKGCONFIGDIR)/smbdirect.pc' '$(DESTDIR)$(INCLUDEDIR)/smbdirect.h'
	rm -f $(PROGRAMS:%='$(DESTDIR)$(SBINDIR)'/%)
	rm -f '$(DESTDIR)$(SYSTEMDDIR)/smbdirectd.service' '$(DESTDIR)$(SYSUSERSDIR)/smbdirectd.conf'
	rm -f $(COMPLETED:%='$(DESTDIR)$(BASHCOMPLETIONDIR)'/%) $(COMPLETED:%='$(DESTDIR)$(ZSHCOMPLETIONDIR)'/_%) \
		$(COMPLETED:%='$(DESTDIR)$(FISHCOMPLETIONDIR)'/%.fish)
	rm -f $(foreach page,$(notdir $(wildcard docs/man/*)),'$(DESTDIR)$(MANDIR)/man$(subst .,,$(suffix $(page)))/$(page)')

clean: ## remove everything that was built
	cargo clean
	rm -rf fuzz/target tests/no-os/Cargo.lock kernel/engine/Cargo.lock kernel/engine.o_shipped kernel/out
