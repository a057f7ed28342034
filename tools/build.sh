#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Builds what is installed: tools/build.sh library|programs ... The result is the same to the byte, in whatever
# directory the source is.
#
#   library     libsmbdirect.a, and the shared library that is linked from it
#   programs    smbdirectd, smbdirectctl, smbdirectctl-bench
#
# Prints the directory that they are in. CARGO, CARGO_BUILD_TARGET, CARGO_TARGET_DIR, RUSTFLAGS, CC and LDFLAGS have
# their usual meaning.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo=${CARGO:-cargo}
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
out=$target/${CARGO_BUILD_TARGET:+$CARGO_BUILD_TARGET/}release

# Panic messages and debug information name source files, but must not name directories of the machine on which they
# were built. cargo follows links to the sources of crates.
read -ra flags <<<"${RUSTFLAGS:-}"
registry=${CARGO_HOME:-$HOME/.cargo}/registry
for folder in "$registry=/usr/src/cargo" "$(realpath -m "$registry")=/usr/src/cargo" \
    "$target=/usr/src/smbdirect/target" "$PWD=/usr/src/smbdirect"; do
    flags+=(--remap-path-prefix="$folder")
done
CARGO_ENCODED_RUSTFLAGS=$(IFS=$'\x1f' && echo "${flags[*]}")
export CARGO_ENCODED_RUSTFLAGS

# Prints the number of the C ABI, which is in the library's name and in the version of its symbols.
abi() {
    sed -n 's/^pub const SMBDIRECT_ABI_VERSION: u32 = \([0-9]*\);/\1/p' src/ffi/status.rs
}

# rustc uses its own version script for a `cdylib`, and the linker accepts only one script with versions. So the shared
# library is linked here, from the static one.
build_library() {
    local name linker_flags
    name=libsmbdirect.so.$(abi)
    read -ra linker_flags <<<"${LDFLAGS:-}"
    "$cargo" rustc --quiet --locked --release --target-dir "$target" --lib --crate-type staticlib \
        --no-default-features --features ffi
    "${CC:-cc}" -shared -o "$out/$name" "${linker_flags[@]}" -Wl,-soname,"$name" -Wl,--gc-sections -Wl,-z,defs,-z,relro,-z,now \
        -Wl,--version-script=src/ffi/libsmbdirect.map -Wl,--no-undefined-version \
        -Wl,--whole-archive "$out/libsmbdirect.a" -Wl,--no-whole-archive -Wl,--as-needed -lgcc_s -lc
}

build_programs() {
    "$cargo" build --quiet --locked --release --target-dir "$target" --workspace --bins
}

[ $# != 0 ] || set -- library programs
for part; do
    "build_$part"
done
echo "$out"
