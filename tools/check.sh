#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Runs checks by name, which are the functions step_* below: tools/check.sh fmt lint
#
# Each check has a heading with the time since the start. All of them run, even after one has failed. At the end there
# is a table of the time that each took, and lines that begin with "OUTDATED: " are repeated. The last line says which
# checks failed or were skipped, and the exit status is 0 only if none failed.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
. tools/lib.sh

export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-auto}
export RUSTFLAGS=${RUSTFLAGS:-}

# Makes sure that the component for `cargo <subcommand>` is installed. Debian has a package for each component; other
# toolchains contain the component or lack it.
cargo_component() {
    local subcommand=$1 package=$2 suffix= version
    cargo "$subcommand" --version >/dev/null 2>&1 && return 0
    if [ "$(command -v cargo)" = /usr/bin/cargo ]; then
        dpkg -s rustc-web >/dev/null 2>&1 && suffix=-web
        version=$(dpkg-query -W -f '${Version}' "rustc$suffix" 2>/dev/null)
        case $package in rust-clippy) package=rust$suffix-clippy ;; *) package=$package$suffix ;; esac
        apt_install "$package${version:+=$version}" && cargo "$subcommand" --version >/dev/null 2>&1 && return 0
    fi
    skipped "cargo $subcommand: this Rust comes without it (with rustup: rustup component add ${2#rust-})"
    return 1
}

# Installs the programs that the tests use.
step_setup() {
    local missing=() pair
    command -v cargo >/dev/null || { echo "no cargo: Rust $(minimum_rust) or newer is needed"; return 1; }
    version_at_least "$(rustc_version rustc)" "$(minimum_rust)" ||
        { echo "rustc is $(rustc_version rustc); $(minimum_rust) or newer is needed"; return 1; }
    for pair in cc:gcc c++:g++ cc:libc6-dev ld:binutils mandoc:mandoc aspell:aspell jq:jq \
        tshark:tshark make:make nft:nftables pkg-config:pkg-config; do
        command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
    done
    # The RDMA fabric needs these.
    for pair in /usr/include/infiniband/verbs.h:libibverbs-dev /usr/include/rdma/rdma_cma.h:librdmacm-dev; do
        [ -e "${pair%%:*}" ] || missing+=("${pair##*:}")
    done
    [ -n "$(aspell dump dicts 2>/dev/null | grep -x en)" ] || missing+=(aspell-en)
    # Without these certificates, cargo cannot fetch crates.
    [ -e /etc/ssl/certs/ca-certificates.crt ] || missing+=(ca-certificates)
    if [ ${#missing[@]} = 0 ]; then
        echo "cargo $(rustc_version rustc), cc, c++, ld, mandoc, aspell, jq, tshark, nft, rdma-core: all there"
    else
        apt_install "${missing[@]}"
    fi
}

step_fmt() {
    cargo_component fmt rustfmt || return 0
    cargo fmt --all --check && rustfmt --check --edition 2024 tests/no-os/src/*.rs tests/smb-rs/src/lib.rs \
        tests/smb-rs/tests/smbd/main.rs kernel/engine/src/*.rs fuzz/src/*.rs fuzz/fuzz_targets/*.rs
}

step_lint() {
    cargo_component clippy rust-clippy || return 0
    cargo clippy --locked --workspace --all-targets -- -D warnings &&
        cargo clippy --locked --no-default-features --lib -- -D warnings &&
        cargo clippy --locked --no-default-features --features engine --lib -- -D warnings &&
        cargo clippy --locked --no-default-features --features shm --lib -- -D warnings &&
        cargo clippy --locked --no-default-features --features ffi --lib -- -D warnings &&
        cargo clippy --locked --no-default-features --features fabric --lib -- -D warnings &&
        cargo clippy --locked --no-default-features --features broker --lib --bins -- -D warnings &&
        cargo clippy --locked --package instruments --no-default-features --lib -- -D warnings &&
        cargo clippy --locked --workspace --test samba --test verbs -- -D warnings
}

step_unit() {
    cargo test --locked --workspace && rdma_core_headers && ring_in_every_order && shared_memory_in_bounds
}

# Tells whether rdma-core's headers are there: without them, the test that compares our declarations with them passes
# but checks nothing.
rdma_core_headers() {
    [ -e /usr/include/infiniband/verbs.h ] && [ -e /usr/include/rdma/rdma_cma.h ] && return 0
    skipped "the layout of rdma-core's types: needs libibverbs-dev and librdmacm-dev"
}

# Tests the ring in shared memory in every order of loads and stores that the memory model allows. The test is
# optimized, because otherwise it takes minutes. It has a target directory of its own, because `--cfg loom` also affects
# its dependencies.
ring_in_every_order() {
    echo "-- the ring's model"
    RUSTFLAGS="$RUSTFLAGS --cfg loom" cargo test --locked --release --target-dir target/loom --no-default-features \
        --features shm --test ring_loom
}

# Tests shared memory with an address sanitizer, which stable Rust does not have.
shared_memory_in_bounds() {
    local host
    echo "-- shared memory with an address sanitizer"
    if ! cargo +nightly --version >/dev/null 2>&1; then
        skipped "shared memory with an address sanitizer: needs nightly Rust (rustup toolchain install nightly)"
        return 0
    fi
    host=$(rustc +nightly -vV | sed -n 's/^host: //p')
    # With --target, build scripts and macros are built without the sanitizer.
    RUSTFLAGS="$RUSTFLAGS -Zsanitizer=address" cargo +nightly test --locked --target-dir target/asan --target "$host" \
        --no-default-features --features ffi --lib --test ring --test device
}

# Tests the optimized library: memory that is shared, and input that is hostile. Later steps test the optimized programs,
# with a real smbd.
step_release() {
    local name tests=()
    for name in device device_fork engine iwarp iwarp_hostile memory no_alloc protocol ring; do
        tests+=(--test "$name")
    done
    # The features of a crate depend on which packages are built together. All packages are built here, so that later
    # steps do not build the shared crates again with other features.
    cargo test --locked --release --workspace --lib "${tests[@]}"
}

# Finds a real smbd: the one in SMBDIRECT_SAMBA, or the one built here.
samba_tree() {
    if [ -z "${SMBDIRECT_SAMBA:-}" ]; then
        SMBDIRECT_SAMBA=$(tools/samba.sh path) || return 1
        export SMBDIRECT_SAMBA
    fi
    [ -x "$SMBDIRECT_SAMBA/bin/smbd" ] || [ -x "$SMBDIRECT_SAMBA/sbin/smbd" ] ||
        { echo "no smbd in $SMBDIRECT_SAMBA"; return 1; }
}

# Builds the programs that people and tests start, including the instruments'.
programs() {
    cargo build --locked --release --workspace --bins
}

# Builds the patched Samba, which must compile without warnings.
step_samba() {
    tools/samba.sh build && tools/samba.sh warnings
}

# Tests our client with the real smbd.
step_smbd() {
    # The tests wait a lot, for time limits and for each other's processes.
    samba_tree && programs && cargo test --locked --release --package instruments --test samba -- \
        --test-threads $(($(nproc) * 3 / 2))
}

# Runs a part of smbtorture's suites, over TCP and over SMB Direct.
step_torture() {
    samba_tree && programs && tools/torture.py --short
}

# Removes each check of RDMA transforms from smbd in turn: the tests must notice.
step_mutations() {
    programs && tools/mutations.py
}

step_demo() {
    samba_tree && tools/demo.py
}

# Draws the dashboard for Grafana, and tests the alerts.
step_dashboard() {
    command -v npm >/dev/null || apt_install nodejs npm || return 1
    apt_need chromium || return 1
    if ! command -v prometheus >/dev/null; then
        apt_install prometheus || return 1
        # The package starts a Prometheus of its own.
        [ ! -d /run/systemd/system ] || systemctl disable --quiet --now prometheus || return 1
    fi
    samba_tree && programs && tools/dashboard.py
}

# Counts what a request costs smbd and smbdirectd, in numbers that do not depend on the machine.
step_counts() {
    [ -z "${INSTRUCTIONS:-}" ] || command -v valgrind >/dev/null || apt_install valgrind || return 1
    samba_tree && programs && tools/counts.py ${INSTRUCTIONS:+--instructions}
}

# Tests Linux's own SMB client and server, in guests, with smbdirectd on software iWARP and on RDMA devices.
step_kernel() {
    local module=()
    tests/kernel/guest.sh build && samba_tree && programs && kernel_programs verbs || return 1
    if [ "$(uname -m)" = x86_64 ] && library_sources; then
        kernel_module target/kernel-module || return 1
        module=(--module target/kernel-module/smbdirectk.ko)
    fi
    tests/kernel/all.py --conformance "${program[verbs]}" --largest "${KERNEL_MIB:-16}" "${module[@]}" ${KERNEL_TESTS:-}
}

# Runs what takes too long for step_kernel: a fuzzer for ten minutes, 200 kills, and smbtorture.
step_module_long() {
    [ "$(uname -m)" = x86_64 ] && library_sources || { skipped "the kernel module: needs x86-64"; return 0; }
    tests/kernel/guest.sh build && samba_tree && programs && kernel_programs verbs kill device_fuzz && kernel_module target/kernel-module &&
        tests/kernel/all.py --module target/kernel-module/smbdirectk.ko --fuzz "${program[device_fuzz]}" \
            --fuzz-seconds "${FUZZ_SECONDS:-600}" --players "${program[kill]}" --kills "${KILLS:-200}" --seconds 7200 \
            ${KERNEL_TESTS:-siw-device module-bench module-torture module-kills}
}

# Tests the module on a kernel that checks its memory and its locks, and that makes the module's allocations fail. Such a
# kernel takes several times as long for everything.
step_module_debug() {
    [ "$(uname -m)" = x86_64 ] && library_sources || { skipped "the kernel module: needs x86-64"; return 0; }
    export KERNEL=debug KASAN=1 ENGINE=target/kernel-debug/engine.o OUT=$PWD/target/kernel-engine-debug
    mkdir -p target/kernel-debug
    tests/kernel/guest.sh build && samba_tree && programs && kernel_programs verbs kill device_fuzz && kernel_module target/kernel-debug &&
        tests/kernel/all.py --module target/kernel-debug/smbdirectk.ko --fuzz "${program[device_fuzz]}" \
            --fuzz-seconds "${FUZZ_SECONDS:-60}" --players "${program[kill]}" --kills "${KILLS:-20}" --limit 900 --seconds 7200 \
            --largest 4 --output target/kernel-debug ${KERNEL_TESTS:-siw-module rxe-module siw-module-failures \
            rxe-module-failures siw-device rxe-device module-bench}
}

# Builds the module for the guest's kernel into a directory.
kernel_module() {
    kernel/build.sh engine && kernel/build.sh module "$(tests/kernel/guest.sh headers)" "$1"
}

# Builds the test programs that run in guests, and sets `program` to their paths by name.
kernel_programs() {
    local built name path names tests=()
    for name in "$@"; do tests+=(--test "$name"); done
    names=$(IFS='|' && echo "$*")
    built=$(cargo test --locked --release --workspace "${tests[@]}" --no-run --message-format json |
        sed -nE 's/.*"name":"('"$names"')".*"executable":"([^"]*)".*/\1 \2/p')
    declare -gA program=()
    while read -r name path; do program[$name]=$path; done <<<"$built"
    [ ${#program[@]} = $# ] || { echo "the programs for the guests do not build"; return 1; }
}

# Runs measurements and loads that take too long for the tests.
step_soak() {
    in_guest soak.py "${FABRIC:-software}" --minutes "${MINUTES:-60}"
}

step_compare() {
    in_guest compare.py --verbs
}

in_guest() {
    local test=$1
    shift
    tests/kernel/guest.sh build && samba_tree && programs &&
        GUEST_DIR=target/kernel/${test%.py} GUEST_SECONDS=$((${MINUTES:-60} * 60 + 1200)) tests/kernel/guest.sh run \
            "$PWD/tests/kernel/$test" "$@" --samba "$(realpath "$SMBDIRECT_SAMBA")" --programs "$PWD/target/release"
}

# Checks the library as smbd links it, and as others do.
step_library() {
    local built
    built=$(tools/build.sh library) && ls -l "$built"/libsmbdirect.*
}

# Checks that a build in another directory, with another cargo home, makes the same library, byte for byte. With ALL=1,
# it also checks the programs.
step_reproducible() {
    local other status
    other=$(mktemp -d)
    same_bytes "$other"
    status=$?
    rm -rf "$other"
    return "$status"
}

same_bytes() {
    local here there name parts=(library) names=(libsmbdirect.a 'libsmbdirect.so.[0-9]') other=$1
    [ -z "${ALL:-}" ] || { parts+=(programs) && names+=(smbdirectd smbdirectctl smbdirectctl-bench); }
    here=$(tools/build.sh "${parts[@]}") || return 1
    copy_source "$other/another-folder" && mkdir "$other/home" || return 1
    # cargo would follow a symbolic link.
    cp -a "${CARGO_HOME:-$HOME/.cargo}/registry" "$other/home/" || return 1
    there=$(CARGO_HOME=$other/home CARGO_TARGET_DIR=$other/target CARGO_NET_OFFLINE=true \
        "$other/another-folder/tools/build.sh" "${parts[@]}") || return 1
    for name in "${names[@]}"; do
        # The second argument is a pattern.
        # shellcheck disable=SC2086
        cmp "$here"/$name "$there"/$name || return 1
        echo "$name: the same"
    done
}

# Tests an independent SMB client library over SMB Direct with the real smbd.
step_samba_library() {
    local samba minimum
    minimum=$(minimum_rust tests/smb-rs)
    if ! version_at_least "$(rustc_version rustc)" "$minimum"; then
        skipped "an SMB client library over SMB Direct: it needs Rust $minimum, this is $(rustc_version rustc)"
        return 0
    fi
    samba_tree || return 1
    samba=$(realpath "$SMBDIRECT_SAMBA")
    programs &&
        (cd tests/smb-rs && SMBDIRECT_SAMBA=$samba cargo test --locked --release --target-dir ../../target/smb-rs)
}

step_no-os() {
    tests/no-os/check.sh
}

# Compiles the engine of the kernel module to an object that needs only what the module's C provides, and tests it in a
# program, with a kernel that pretends.
step_module() {
    # Use the same versions of all crates as the main build.
    cp Cargo.lock kernel/engine/Cargo.lock
    cargo test --quiet --manifest-path kernel/engine/Cargo.toml --target-dir target/kernel-tests || return 1
    ! library_sources || kernel/build.sh engine
}

# Makes sure that this Rust has the sources of its library, from which the module's engine is built.
library_sources() {
    [ -e "$(rustc --print sysroot)/lib/rustlib/src/rust/library/core" ] ||
        { command -v rustup >/dev/null && rustup component add rust-src; } ||
        { skipped "the kernel module: this Rust has no sources of its library (rust-src)"; return 1; }
}

# Builds with any toolchain of the minimum version: the active one, one of rustup's, or Debian's.
step_msrv() {
    local minimum toolchain cargo=()
    minimum=$(minimum_rust)
    toolchain=$(rustup toolchain list 2>/dev/null | sed -n "s/^\($minimum[.0-9]*-[^ ]*\).*/\1/p" | head -n 1)
    if [[ $(rustc_version rustc) == "$minimum".* ]]; then
        echo "the active Rust is $(rustc_version rustc): the other steps have tested it"
        return 0
    elif [ -n "$toolchain" ]; then
        cargo=(rustup run "$toolchain" cargo)
    elif [[ -x /usr/bin/cargo && $(rustc_version /usr/bin/rustc) == "$minimum".* ]]; then
        cargo=(env -u RUSTUP_TOOLCHAIN PATH=/usr/bin:/bin RUSTC=/usr/bin/rustc /usr/bin/cargo)
    else
        skipped "build with Rust $minimum: it is not installed (rustup toolchain install $minimum)"
        return 0
    fi
    "${cargo[@]}" --version
    "${cargo[@]}" check --locked --target-dir target/msrv --all-targets &&
        "${cargo[@]}" check --locked --target-dir target/msrv --no-default-features &&
        "${cargo[@]}" check --locked --target-dir target/msrv --no-default-features --features ffi --lib || return 1
    # The instruments may need a newer Rust.
    version_at_least "$minimum" "$(minimum_rust instruments)" || return 0
    "${cargo[@]}" check --locked --target-dir target/msrv --package instruments --all-targets
}

step_docs() {
    tools/docs.py || return 1
    RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --document-private-items
}

step_bench() {
    cargo bench --locked --benches &&
        tools/samba.sh build && samba_tree && programs && tools/bench_smbd.py
}

step_fuzz() {
    local seconds=${FUZZ_SECONDS:-600} target targets
    if ! cargo fuzz --version >/dev/null 2>&1 || ! cargo +nightly --version >/dev/null 2>&1; then
        echo "fuzzing needs nightly Rust and cargo-fuzz: rustup toolchain install nightly; cargo install cargo-fuzz"
        return 1
    fi
    targets=$(cargo +nightly fuzz list) || return 1
    for target in ${FUZZ_TARGETS:-$targets}; do
        echo "-- $target, $seconds s"
        # Put new inputs into a directory that is not checked in. The checked-in corpus is used, too.
        mkdir -p "fuzz/target/corpus/$target"
        cargo +nightly fuzz run "$target" "fuzz/target/corpus/$target" "fuzz/corpus/$target" -- \
            -max_total_time="$seconds" -timeout=10 -print_final_stats=1 2>&1 |
            grep --line-buffered -vE '^#[0-9]+.*(REDUCE|NEW|pulse|RELOAD)' || return 1
    done
}

# Runs the engine's tests under Miri, except those that move megabytes.
step_miri() {
    if ! cargo +nightly miri --version >/dev/null 2>&1; then
        echo "Miri needs nightly Rust: rustup toolchain install nightly --component miri,rust-src"
        return 1
    fi
    cargo +nightly miri test --locked --target-dir target/miri --test engine
}

# Builds what later checks need, with processors that the checks before them leave idle. If a build is not finished when
# a check needs it, the check waits; if it failed, the check builds again and says why.
build_ahead() {
    local name work=
    for name; do
        case $name in
            samba) work+='tools/samba.sh build && tools/samba.sh warnings; ' ;;
            kernel) work+='tests/kernel/guest.sh build; ' ;;
        esac
    done
    [ -n "$work" ] || return 0
    # Use a process group, so that all of the build can be ended. A session of its own would get as much processor time
    # as this session.
    set -m
    nice -n 19 bash -c "$work" >/dev/null 2>&1 </dev/null &
    ahead=$!
    set +m
}

main() {
    local started=$SECONDS failed=() skipped=0 outdated= name began table=
    for name; do
        declare -F "step_$name" >/dev/null || { echo "no such check: $name" >&2; exit 2; }
    done
    log=$(mktemp) ahead=
    trap 'rm -f "$log"; [ -z "$ahead" ] || kill -- "-$ahead" 2>/dev/null' EXIT
    for name; do
        printf '\n== [%4d s] %s\n' $((SECONDS - started)) "$name"
        began=$SECONDS
        "step_$name" 2>&1 | tee "$log" || failed+=("$name")
        skipped=$((skipped + $(grep -c '^SKIPPED: ' "$log")))
        outdated+=$(grep '^OUTDATED: ' "$log")$'\n'
        printf -v table '%s%-14s %5d s\n' "$table" "$name" $((SECONDS - began))
        # The builds need the compilers that setup installs.
        [ "$name" != setup ] || build_ahead "${@:3}"
    done
    printf '\n%s' "$table"
    [ -z "${outdated//[[:space:]]/}" ] || printf '\n%s\n' "$(sort -u <<<"$outdated" | sed '/^$/d')"
    printf '\n== [%4d s] ' $((SECONDS - started))
    if [ ${#failed[@]} != 0 ]; then
        echo "FAILED: ${failed[*]} (of: $*; $skipped skipped)"
        exit 1
    fi
    echo "PASSED: $* ($skipped skipped)"
    exit 0
}

# All code is in a function, so that bash reads the whole file before it runs anything, and the file may be edited
# meanwhile.
main "$@"
