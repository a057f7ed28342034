#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Proves that wire, proto, the iWARP codecs and the engine do not need an operating system.
#
# It builds a program that has this code as its only library (src/lib.rs), links all of the code, whether called or not,
# and fails if any symbol is left undefined. It does so for
#   - a target without an operating system (x86_64-unknown-none), where `std` does not exist, and
#   - this machine's own target, where `std` exists and only the linker keeps a dependency from using it.
#
# For the second target it also looks for places that may panic, and fails if it finds any that panics.txt does not
# list.
#
# The first target needs a `core`: the active toolchain's, if the target or the component rust-src is installed;
# otherwise, Debian's Rust with its library sources, called by absolute path so that the user's own Rust stays
# untouched.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
. tools/lib.sh

# Symbols that `core` itself needs from the program: memory copies and, on a hosted target, for which it was built with
# unwinding, the names in its unwinding tables.
ALLOWED='memcpy|memmove|memset|memcmp|bcmp|strlen|rust_eh_personality|_Unwind_Resume'
# Crates that may be in the program, and the features that would bring in the operating system.
CRATES='no-os|slotmap|smbdirect|strum|thiserror|zerocopy'
FEATURES='std|fabric|shm'
# The version of Rust with which panics.txt was made.
PANICS_RUST=1.95

out=$PWD/target/no-os
bare=$(uname -m)-unknown-none

# build <cargo> <target or ""> <more arguments of cargo>: builds the program, and prints its path.
build() {
    local cargo=$1 target=$2 library
    shift 2
    # Use the same versions of all crates as the main build.
    cp Cargo.lock tests/no-os/Cargo.lock
    "$cargo" build --quiet --release --manifest-path tests/no-os/Cargo.toml --target-dir "$out" \
        ${target:+--target "$target"} "$@" >&2 || return 1
    library=$out/${target:+$target/}release/libno_os.a
    ld -r --whole-archive "$library" -o "$library.o" >&2 || return 1
    echo "$library.o"
}

# Prints undefined symbols that are not allowed. This uses readelf, because nm tries to read the bitcode in the
# toolchain's own libraries with whatever LLVM plugin is installed.
forbidden_symbols() {
    readelf --wide --symbols "$1" >"$1.symbols" || return 1
    grep -q ' GLOBAL .* no_os$' "$1.symbols" || { echo "the program itself is missing in $1"; return 1; }
    awk -v allowed="^($ALLOWED)\$" '$7 == "UND" && $8 != "" && $8 !~ allowed { print $8 }' "$1.symbols" | sort -u
}

# build_and_check <what> <arguments of build>
build_and_check() {
    local what=$1 program forbidden
    shift
    program=$(build "$@") || { echo "$what: does not build"; return 1; }
    forbidden=$(forbidden_symbols "$program") || { echo "$what: $forbidden"; return 1; }
    if [ -n "$forbidden" ]; then
        printf '%s: these symbols would have to come from an operating system:\n%s\n' "$what" "$forbidden"
        return 1
    fi
    echo "$what: $(grep -c ' FUNC ' "$program.symbols") functions, nothing left undefined except what core itself needs"
}

# Checks the places that may panic in the program for this machine's target: a kernel would oops there. An older library
# reports more callers, so that more places seem to be in this crate.
check_panics() {
    if ! version_at_least "$(rustc_version rustc)" "$PANICS_RUST"; then
        skipped "places that may panic: tests/no-os/panics.txt was made with Rust $PANICS_RUST"
        return 0
    fi
    python3 tests/no-os/panics.py "$out/release/libno_os.a" . tests/no-os/panics.txt
}

# Checks that the check notices a program that does import something: if it did not, this script would prove nothing.
check_the_check() {
    local program
    program=$(build cargo "" --features import) || return 1
    [ "$(forbidden_symbols "$program")" = getpid ] && return 0
    echo "an import of getpid went unnoticed"
    return 1
}

# Checks that the program has the expected crates, without the features that need an operating system.
check_features() {
    local listing wrong
    cp Cargo.lock tests/no-os/Cargo.lock
    listing=$(cargo tree --quiet --manifest-path tests/no-os/Cargo.toml --edges normal,no-proc-macro --prefix none \
        --no-dedupe --format '{p}|{f}') || return 1
    wrong=$(printf '%s\n' "$listing" | awk -F'|' -v crates="^($CRATES) " -v features="(^|,)($FEATURES)(,|\$)" \
        '$1 !~ crates || $2 ~ features { print "  " $1 ", features: " $2 }')
    [ -z "$wrong" ] && return 0
    printf 'not for a build without an operating system:\n%s\n' "$wrong"
    return 1
}

has_target() {
    [ -n "$(find "$(rustc --print sysroot)/lib/rustlib/$1/lib" -name 'libcore-*.rlib' -print -quit 2>/dev/null)" ]
}

# Tells whether Debian's Rust is there, is new enough, and has its library sources.
debian_rust_is_complete() {
    [ -x /usr/bin/cargo ] && [ -x /usr/bin/rustc ] && [ -e /usr/lib/rustlib/src/rust/library/core ] &&
        version_at_least "$(rustc_version /usr/bin/rustc)" "$(minimum_rust)"
}

# Prints the packages of Debian's Rust: rustc of Debian 13, or rustc-web of Debian 12, in the oldest version that will
# do, so that the minimum version is tested, too.
debian_rust_packages() {
    local suffix version minimum
    minimum=$(minimum_rust)
    for suffix in '' -web; do
        if dpkg -s "rustc$suffix" >/dev/null 2>&1; then
            version=$(dpkg-query -W -f '${Version}' "rustc$suffix")
        else
            version=$(apt_versions "rustc$suffix" | while read -r v; do
                version_at_least "${v%%+*}" "$minimum" && echo "$v"
            done | tail -n 1)
        fi
        if [ -n "$version" ] && version_at_least "${version%%+*}" "$minimum"; then
            echo "rustc$suffix=$version cargo$suffix=$version rust$suffix-src=$version libstd-rust$suffix-dev=$version"
            return 0
        fi
    done
    return 1
}

# Tells whether Debian's cargo would replace the user's: the user's cargo must come before /usr/bin in PATH.
debian_rust_would_shadow() {
    local cargo directory
    cargo=$(command -v cargo) || return 1
    while read -r directory; do
        [ "$directory/cargo" = "$cargo" ] && return 1
        case $directory in /usr/bin | /bin) return 0 ;; esac
    done < <(tr : '\n' <<<"$PATH")
    return 1
}

install_debian_rust() {
    local packages before
    apt_lists || { echo "Debian's Rust: no package lists here"; return 1; }
    packages=$(debian_rust_packages) || { echo "this Debian has no Rust $(minimum_rust)"; return 1; }
    if debian_rust_would_shadow; then
        echo "Debian's Rust would take the place of $(command -v cargo) in PATH"
        return 1
    fi
    before=$(command -v cargo)
    # shellcheck disable=SC2086 # a list of packages
    apt_install $packages || return 1
    hash -r
    [ "$(command -v cargo)" = "$before" ] || { echo "cargo was $before and is $(command -v cargo) now"; exit 1; }
}

with_debian_rust() {
    env -u RUSTUP_TOOLCHAIN -u RUSTC_WRAPPER -u RUSTFLAGS RUSTC=/usr/bin/rustc RUSTDOC=/usr/bin/rustdoc \
        PATH=/usr/bin:/bin RUSTC_BOOTSTRAP=1 /usr/bin/cargo "$@"
}

with_own_sources() {
    RUSTC_BOOTSTRAP=1 cargo "$@"
}

failed=0
check_features || failed=1
check_the_check || failed=1
{ build_and_check "this machine's target" cargo "" && check_panics; } || failed=1

build_core=(-Zbuild-std=core,alloc)
if has_target "$bare"; then
    build_and_check "$bare" cargo "$bare" || failed=1
elif [ -e "$(rustc --print sysroot)/lib/rustlib/src/rust/library/core" ] && [ "$(command -v rustc)" != /usr/bin/rustc ]; then
    build_and_check "$bare" with_own_sources "$bare" "${build_core[@]}" || failed=1
elif debian_rust_is_complete || { install_debian_rust && debian_rust_is_complete; }; then
    build_and_check "$bare (Debian's Rust $(rustc_version /usr/bin/rustc))" with_debian_rust "$bare" "${build_core[@]}" ||
        failed=1
else
    skipped "build for $bare: neither the target (rustup target add $bare) nor Debian's Rust with sources is there"
fi
exit "$failed"
