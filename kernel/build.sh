#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Builds the kernel module of /dev/smbdirect:
#
#   kernel/build.sh engine              compile the engine: kernel/engine.o_shipped
#   kernel/build.sh module KERNEL OUT   compile the module for the kernel whose build directory is KERNEL, and put
#                                       smbdirectk.ko into the directory OUT
#   kernel/build.sh                     both, for the running kernel, into kernel/out
#
# The engine needs Rust with the sources of its library (rustup component add rust-src, or Debian's rust-src); the module
# needs the kernel's headers and its compiler. The engine depends on the processor, not on the kernel's version.
#
# CARGO=  the cargo to use (cargo)
# OUT=    where the engine is compiled (target/kernel-engine)
# ENGINE= the engine's object, instead of kernel/engine.o_shipped
# KASAN=1 let a kernel with CONFIG_KASAN check the engine's memory, too, and show the engine in its stack traces
set -euo pipefail
called_from=$PWD
cd "$(dirname "$0")"

die() {
    printf 'build.sh: %s\n' "$*" >&2
    exit 1
}

cargo=${CARGO:-cargo}
out=${OUT:-$PWD/../target/kernel-engine}
shipped=$PWD/engine.o_shipped
[ -z "${ENGINE:-}" ] || shipped=$(cd "$called_from" && realpath -m "$ENGINE")
# The functions that the C calls.
entries=(sde_init sde_stop sde_exit sde_run sde_open sde_release sde_ioctl sde_mmap)

engine() {
    local machine version flags target library object keep=() roots=() entry
    machine=$(uname -m)
    [ -e "target/$machine.json" ] || die "there is no target/$machine.json: this processor is not supported"
    version=$("${RUSTC:-rustc}" --version | sed 's/rustc \([0-9]*\.[0-9]*\).*/\1/')
    [ -e "$("${RUSTC:-rustc}" --print sysroot)/lib/rustlib/src/rust/library/core" ] ||
        die "this Rust has no sources of its library: rustup component add rust-src, or apt-get install rust-src"
    mkdir -p "$out"
    target=$out/kernel.json
    # Compile as the kernel compiles C: no floating point, mitigations, room for tracing.
    flags=(-Cpanic=abort -Cforce-unwind-tables=n -Crelocation-model=static -Ccode-model=kernel -Cno-redzone=y
        -Ctarget-cpu=x86-64 -Ztune-cpu=generic -Zcf-protection=branch -Zfunction-return=thunk-extern
        -Zpatchable-function-entry=16,16 -Csymbol-mangling-version=v0)
    unstable=(-Zbuild-std=core,alloc,compiler_builtins)
    if [ "$(printf '%s\n' "$version" 1.90 | sort -V | head -n 1)" = 1.90 ]; then
        cp "target/$machine.json" "$target"
        flags+=(-Cjump-tables=n)
        unstable+=(-Zjson-target-spec)
    else
        # Rust before 1.90 writes these two values differently.
        sed 's/"target-pointer-width": 64/"target-pointer-width": "64"/; s/"rustc-abi": "softfloat"/"rustc-abi": "x86-softfloat"/' \
            "target/$machine.json" >"$target"
        flags+=(-Zno-jump-tables)
    fi
    if [ -n "${KASAN:-}" ]; then
        sed -i 's/"supported-sanitizers": \[\]/"supported-sanitizers": ["kernel-address"]/' "$target"
        # Where the kernel has its shadow memory on x86-64; calls instead of checks in line.
        flags+=(-Cforce-frame-pointers=y -Zsanitizer=kernel-address -Zsanitizer-recover=kernel-address
            -Cllvm-args=-asan-mapping-offset=0xdffffc0000000000 -Cllvm-args=-asan-instrumentation-with-call-threshold=0
            -Cllvm-args=-asan-stack=0 -Cllvm-args=-asan-globals=0 -Cllvm-args=-asan-kernel-mem-intrinsic-prefix=1)
    fi
    # Use the same versions of all crates as the main build.
    cp ../Cargo.lock engine/Cargo.lock
    env -u CARGO_BUILD_TARGET RUSTC_BOOTSTRAP=1 RUSTFLAGS="${flags[*]}" "$cargo" build --quiet --release \
        --manifest-path engine/Cargo.toml --target-dir "$out" --target "$target" "${unstable[@]}"
    library=$out/kernel/release/libsmbdirect_kernel.a
    for entry in "${entries[@]}"; do
        keep+=(--keep-global-symbol="$entry")
        roots+=(-u "$entry")
    done
    object=$out/engine.o
    ld -r --gc-sections "${roots[@]}" -e sde_run -o "$object" "$library"
    objcopy "${keep[@]}" --remove-section=.eh_frame --remove-section=.comment --remove-section=.note.GNU-stack \
        --strip-debug "$object" "$shipped"
    check
}

# Checks that the engine needs only the glue and the functions that compilers call.
check() {
    local wrong
    wrong=$(nm -u "$shipped" | awk '{ print $2 }' |
        grep -vxE 'sdk_[a-z_]+|memcpy|memmove|memset|memcmp|bcmp|strlen|__x86_return_thunk|__x86_indirect_thunk_[a-z0-9]+'"${KASAN:+|__asan_[a-z0-9_]+}" || true)
    [ -z "$wrong" ] || die "the engine needs symbols that the kernel does not have: $(tr '\n' ' ' <<<"$wrong")"
    ! objdump -d --no-show-raw-insn "$shipped" | grep -q '%[xyz]mm' || die "the engine uses floating-point registers"
    echo "engine.o_shipped: $(size -A "$shipped" | awk '$1 ~ /^\.text/ { sum += $2 } END { print sum }') bytes of code"
}

module() {
    local kernel=$1 to=$2 work
    [ -e "$shipped" ] || die "there is no $shipped: run kernel/build.sh engine"
    mkdir -p "$to"
    work=$(mktemp -d "$to/work.XXXXXX")
    cp -r Kbuild glue "$work/"
    cp "$shipped" "$work/engine.o_shipped"
    # Without pahole there is no BTF, and nothing needs it.
    env -u MAKEFLAGS -u MFLAGS -u MAKELEVEL make -s -C "$kernel" M="$work" CONFIG_DEBUG_INFO_BTF_MODULES= modules
    mv "$work/smbdirectk.ko" "$to/"
    rm -rf "$work"
}

case ${1:-} in
engine) engine ;;
module)
    [ $# = 3 ] || die "usage: kernel/build.sh module KERNEL OUT"
    module "$(cd "$called_from" && realpath "$2")" "$(cd "$called_from" && realpath -m "$3")"
    ;;
'')
    engine
    module "/lib/modules/$(uname -r)/build" "$PWD/out"
    ;;
*) die "unknown command: $1" ;;
esac
