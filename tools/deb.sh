#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Builds and tests the Debian packages of this repository: tools/deb.sh <verb>
#
#   build    builds the packages that debian/ describes, in target/deb; with KERNEL=1 also smbdirect-dkms, which
#            DKMS then compiles for each kernel whose headers are installed
#   test     builds them, and installs, uses, upgrades and purges them in a fresh Debian (as root; SUITE= or this machine's suite)
#   systemd  builds them, and restarts, reloads and upgrades smbdirectd under load in a Debian 13 with systemd, in QEMU (as
#            root); SMBDIRECT_SAMBA= is a build tree of Samba (that of tools/samba.sh)
#
# All use a copy of the working tree, including changes that are not committed.

# The functions for the verbs are called by name.
# shellcheck disable=SC2317
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/lib.sh

work=$(realpath -m "${CARGO_TARGET_DIR:-target}")/deb
tree=$work/smbdirect

# Builds the packages of the copy. Rust need not come from a package; tools/build.sh reports if it is missing.
packages_of_copy() {
    (cd "$tree" && env -u MAKEFLAGS -u MFLAGS -u MAKELEVEL CARGO_HOME="${CARGO_HOME:-$HOME/.cargo}" \
        RUSTUP_HOME="${RUSTUP_HOME:-$HOME/.rustup}" CARGO_TARGET_DIR="$work/cargo" \
        DEB_BUILD_PROFILES="${KERNEL:+pkg.smbdirect.kernel}" \
        dpkg-buildpackage --no-sign --no-check-builddeps -b)
}

# Compiles the kernel module's package with DKMS, in directories of its own.
compile_module() {
    local package headers kernel version
    package=$(echo "$work"/smbdirect-dkms_*.deb)
    version=$(dpkg-deb --field "$package" Version)
    rm -rf "$work/dkms"
    mkdir -p "$work/dkms/tree"
    dpkg-deb --extract "$package" "$work/dkms/root"
    for headers in /usr/src/linux-headers-*-"$(dpkg --print-architecture)"; do
        [ -e "$headers/Makefile" ] || { skipped "smbdirect-dkms: apt-get install linux-headers-amd64"; return 0; }
        kernel=${headers#/usr/src/linux-headers-}
        logged "$work/dkms.log" dkms build "smbdirectk/${version%-*}" -k "$kernel" --kernelsourcedir "$headers" \
            --sourcetree "$work/dkms/root/usr/src" --dkmstree "$work/dkms/tree"
        find "$work/dkms/tree" -path "*/$kernel/*" -name 'smbdirectk.ko*' | grep -q . ||
            { echo "DKMS made no module for $kernel"; return 1; }
        echo "DKMS compiles the module for $kernel"
    done
}

verb_build() {
    apt_need debhelper dh-apparmor dpkg-dev lintian
    [ -z "${KERNEL:-}" ] || apt_need dh-dkms dkms
    cargo fetch --locked --quiet
    copy_source "$tree"
    rm -f "$work"/*.deb "$work"/*.buildinfo "$work"/*.changes
    logged "$work/build.log" packages_of_copy
    # Not reported: the project has no mail address yet, and no Debian bug asks for the package.
    lintian --allow-root --fail-on error,warning \
        --suppress-tags bogus-mail-host,bogus-mail-host-in-debian-changelog,initial-upload-closes-no-bugs "$work"/*.changes
    ls -l "$work"/*.deb
    [ -z "${KERNEL:-}" ] || compile_module
}

# Builds the packages again with a higher revision; everything has already been compiled.
next_revision() {
    sed -i '1 s/-1)/-2)/' "$tree/debian/changelog"
    logged "$work/build.log" packages_of_copy
}

# Lists all files of the root, except those in which dpkg, mount and other programs keep records.
root_files() {
    (cd "$root" && find . -xdev \( -path ./proc -o -path ./sys -o -path ./dev -o -path ./var/log -o -path ./var/cache \
        -o -path ./var/lib/dpkg -o -path ./var/lib/apt -o -path ./tmp \
        -o -path ./run/mount \) -prune -o -print | grep -v '^\./etc/[a-z]*-$' | sort)
}

verb_test() {
    local suite root
    [ "$(id -u)" = 0 ] || { skipped "the packages in a fresh Debian: needs root"; return 0; }
    suite=${SUITE:-$(. /etc/os-release && echo "$VERSION_CODENAME")}
    verb_build
    root=$(mktemp -d)
    # shellcheck disable=SC2064
    trap "rm -rf --one-file-system '$root'" EXIT
    echo "-- a fresh Debian, $suite"
    # systemd-sysusers is a part of systemd.
    new_root "$root" "$suite" gcc,libc6-dev,pkgconf,systemd "$work"
    root_files >"$work/before"
    cp tools/deb_test.sh "$root/root/"

    mkdir "$root/root/1" "$root/root/2"
    cp "$work"/*-1_*.deb "$root/root/1/"
    # shellcheck disable=SC2016
    sed -n '/^```c$/,/^```$/ { /^```/d; p }' docs/device.md >"$root/root/example.c"
    in_root "$root" bash /root/deb_test.sh installed
    next_revision
    cp "$work"/*-2_*.deb "$root/root/2/"
    in_root "$root" bash /root/deb_test.sh upgraded
    in_root "$root" bash /root/deb_test.sh purged
    rm -rf "$root"/root/{1,2,example*,deb_test.sh}
    root_files >"$work/after"
    diff "$work/before" "$work/after" || { echo "purged packages leave these files"; return 1; }
    echo "the packages install, run, are upgraded and leave nothing, in $suite"
}

# Moves the packages to a repository for apt of this revision.
repository() {
    mkdir -p "$work/repository/$1"
    cp "$work"/*-"$1"_*.deb "$work/repository/$1/"
    (cd "$work/repository/$1" && dpkg-scanpackages --multiversion . >Packages 2>"$work/scan.log")
}

# systemd keeps descriptors over a restart from version 254 on, which Debian 13 has.
verb_systemd() {
    local root samba
    [ "$(id -u)" = 0 ] || { skipped "the packages under systemd: needs root"; return 0; }
    samba=${SMBDIRECT_SAMBA:-$(tools/samba.sh path)}
    tests/kernel/guest.sh build
    verb_build
    rm -rf "$work/repository"
    repository 1
    next_revision
    repository 2
    root=$(mktemp -d)
    # shellcheck disable=SC2064
    trap "rm -rf --one-file-system '$root'" EXIT
    echo "-- a Debian 13 with systemd, in QEMU"
    new_root "$root" trixie cifs-utils,fio,ibverbs-providers,iproute2,kmod,librdmacm1t64,python3,systemd "$work"
    in_root "$root" systemd-machine-id-setup >/dev/null 2>&1
    GUEST_DIR=$work/guest GUEST_SYSTEM=$root tests/kernel/guest.sh run tests/kernel/service.py \
        --samba "$(realpath "$samba")" --packages "/machine$work/repository"
}

main() {
    declare -F "verb_${1:-}" >/dev/null || { sed -n '2,/^$/ s/^# \{0,1\}//p' tools/deb.sh >&2; exit 2; }
    mkdir -p "$work"
    "verb_$1"
    exit 0
}

main "$@"
