#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# A Linux in QEMU with software RDMA (siw, rxe), the kernel's own SMB client and its own SMB server:
#
#   tests/kernel/guest.sh deps           install what it needs (apt, as root)
#   tests/kernel/guest.sh build          fetch the newest kernel source of Debian 13 and build the guest's kernel
#   tests/kernel/guest.sh run COMMAND... run a command as root in the guest, and exit with its status
#
# The guest sees this machine's files; whatever it writes to them is lost when it ends, except in the directory
# GUEST_DIR. The output of the command is printed; the kernel's messages are in GUEST_DIR/dmesg, and the console's
# output in GUEST_DIR/console. It does not need KVM: the guest's processors are emulated, at about a tenth of the speed.
#
# GUEST_DIR=     a directory of this machine that the guest may write (a temporary one; in the guest it is /mnt/guest)
# GUEST_SECONDS= seconds until the guest is stopped (1800)
# GUEST_MEMORY=  its memory (6G)
# GUEST_NETWORK= more options of QEMU's user network, such as hostfwd=tcp:127.0.0.1:5445-:5445
# KERNEL_SRC=    a tarball or directory with another source of Linux
# JOBS=          how many compilers run at once (as many as there are processors)
#
# The kernel is kept in ${XDG_CACHE_HOME:-~/.cache}/smbdirect, named by a hash of what it was made from.

# The verbs are called by name.
# shellcheck disable=SC2317
set -euo pipefail
called_from=$PWD
cd "$(dirname "$0")/../.."
. tools/lib.sh

suite=trixie
linux=linux-source-6.12

packages=(bc binutils bison ccache cifs-utils cpio dpkg-dev fio flex gcc ibverbs-providers iproute2 kmod libc6-dev libelf-dev
    libglib2.0-0 libnl-3-200 libnl-genl-3-200 make perl python3 qemu-system-x86 rdma-core rsync seabios xz-utils)
# Its name changed.
! apt-cache show libglib2.0-0t64 >/dev/null 2>&1 || packages=("${packages[@]/libglib2.0-0/libglib2.0-0t64}")

die() {
    printf 'guest.sh: %s\n' "$*" >&2
    exit 1
}

say() {
    printf -- '-- %s\n' "$*"
}

verb_deps() {
    local missing
    command -v dpkg-query >/dev/null || return 0
    mapfile -t missing < <(comm -23 <(printf '%s\n' "${packages[@]}" | sort) \
        <(dpkg-query -W -f '${db:Status-Status} ${Package}\n' 2>/dev/null | sed -n 's/^installed //p' | sort -u))
    [ ${#missing[@]} = 0 ] || apt_install "${missing[@]}"
}

# ---- the kernel

# Debian's packages are fetched at most once a day: the kernel's source, and ksmbd's user-space programs.
fetch() {
    local work
    mkdir -p "$cache/source"
    [ -z "$(find "$cache/source/linux-newest" -mmin -1440 2>/dev/null)" ] || return 0
    say "asking the Debian mirror for the newest $linux and ksmbd-tools of Debian 13"
    work=$(mktemp -d "$cache/source/apt.XXXXXX")
    mkdir "$work/got"
    # A package that is already here with the right checksum is not fetched again.
    ln "$cache/source/$linux"_* "$cache/source"/ksmbd-tools_* "$work/got/" 2>/dev/null || true
    if debian_apt "$work" "$suite" deb && logged "$work/log" apt-get "${debian_apt[@]}" update &&
        (cd "$work/got" && logged ../log apt-get "${debian_apt[@]}" download "$linux" ksmbd-tools); then
        newest_only "$work/got" "$linux"
        newest_only "$work/got" ksmbd-tools
        rm -f "$cache/source/$linux"_* "$cache/source"/ksmbd-tools_*
        mv "$work/got"/*.deb "$cache/source/"
        touch "$cache/source/linux-newest"
    elif [ -e "$(deb "$linux")" ]; then
        say "that did not work: going on with $(basename "$(deb "$linux")"), fetched earlier"
    else
        rm -rf "$work"
        die "no source of Linux: try again, or set KERNEL_SRC=<a tarball or directory>"
    fi
    rm -rf "$work"
}

newest_only() {
    find "$1" -name "$2_*" | sort -V | head -n -1 | xargs -r rm -f
}

deb() {
    echo "$cache/source/$1"_*.deb
}

kernel_path() {
    local key
    key=$({
        echo 1
        if [ -n "${KERNEL_SRC:-}" ]; then realpath "$KERNEL_SRC"; else basename "$(deb "$linux")"; fi
        cat tests/kernel/config
        gcc -dumpfullversion
    } | sha256sum | cut -c 1-10)
    echo "$cache/kernel-$key"
}

# The kernel's configuration must have every line of ours: kconfig silently drops options that its version does not know
# or whose dependencies are missing.
configured() {
    local missing
    missing=$(grep -E '^CONFIG_|is not set$' tests/kernel/config | grep -vxFf "$1/.config" | grep -v 'is not set$' || true)
    [ -z "$missing" ] || say "this kernel has no: $(tr '\n' ' ' <<<"$missing")"
    ! grep -qE '^CONFIG_(RDMA_SIW|RDMA_RXE|CIFS_SMB_DIRECT|SMB_SERVER_SMBDIRECT|PVH|OVERLAY_FS|9P_FS)=' <<<"$missing" ||
        die "the tests need at least one of these"
}

verb_build() {
    local kernel work started=$SECONDS
    verb_deps
    exec 9>"$cache/kernel-lock"
    flock --nonblock 9 || { say "waiting for another guest.sh that builds"; flock 9; }
    fetch
    kernel=$(kernel_path)
    if [ -e "$kernel/vmlinux" ]; then
        touch "$kernel"
        say "the guest's kernel is $kernel/vmlinux"
        return 0
    fi
    work=$kernel.new
    rm -rf "$cache"/kernel-*.new
    mkdir -p "$work/source" "$work/build"
    say "unpacking ${KERNEL_SRC:-$(basename "$(deb "$linux")")}"
    unpack "$work"
    say "building the guest's kernel"
    local make=(env -u MAKEFLAGS -u MFLAGS -u MAKELEVEL CCACHE_DIR="${CCACHE_DIR:-$cache/ccache}" CCACHE_MAXSIZE=2G
        KBUILD_BUILD_TIMESTAMP=1 make -C "$work/source" O="$work/build" CC="ccache gcc" HOSTCC="ccache gcc")
    logged "$work/log" "${make[@]}" tinyconfig || die "make tinyconfig"
    cat tests/kernel/config >>"$work/build/.config"
    logged "$work/log" "${make[@]}" olddefconfig || die "make olddefconfig"
    configured "$work/build"
    "${make[@]}" "-j${JOBS:-$(nproc)}" vmlinux 2>&1 </dev/null | tee "$work/log" | show_progress ||
        { tail -n 30 "$work/log"; die "the kernel does not build; its output is in $work/log"; }
    objcopy --strip-debug "$work/build/vmlinux" "$work/vmlinux.new"
    ksmbd_tools "$work"
    mv "$work/vmlinux.new" "$work/vmlinux"
    rm -rf "$work/source" "$work/build"
    mv "$work" "$kernel"
    # Keep the two most recently used ones.
    find "$cache" -maxdepth 1 -name 'kernel-*' -type d -printf '%T@ %p\n' | sort -rn | tail -n +3 | cut -d ' ' -f 2- |
        xargs -r rm -rf
    say "built in $((SECONDS - started)) s: $kernel/vmlinux"
}

unpack() {
    if [ -d "${KERNEL_SRC:-}" ]; then
        cp -a "$KERNEL_SRC/." "$1/source"
    elif [ -n "${KERNEL_SRC:-}" ]; then
        tar -C "$1/source" --strip-components=1 -xf "$KERNEL_SRC"
    else
        dpkg-deb --fsys-tarfile "$(deb "$linux")" | tar -x -O "./usr/src/$linux.tar.xz" |
            tar -C "$1/source" --strip-components=1 -xJ
    fi
}

ksmbd_tools() {
    dpkg-deb -x "$(deb ksmbd-tools)" "$1/ksmbd-tools"
}

# Prints a line every 15 seconds: how many files are done, of about how many.
show_progress() {
    local files=0 next=$((SECONDS + 15)) line
    while IFS= read -r line; do
        [[ $line != *" CC "* ]] || files=$((files + 1))
        if [ "$SECONDS" -ge "$next" ]; then
            printf '   %s of about 1800\n' "$files"
            next=$((SECONDS + 15))
        fi
    done
}

# ---- the guest

verb_run() {
    local kernel status quoted
    [ $# != 0 ] || die "which command?"
    kernel=$(kernel_path)
    [ -e "$kernel/vmlinux" ] || die "the guest's kernel is not built yet: tests/kernel/guest.sh build"
    if [ -z "${GUEST_DIR:-}" ]; then
        GUEST_DIR=$(mktemp -d)
        trap 'rm -rf "$GUEST_DIR"' EXIT
    fi
    mkdir -p "$GUEST_DIR"
    GUEST_DIR=$(realpath "$GUEST_DIR")
    rm -f "$GUEST_DIR"/{dmesg,console,status}
    printf -v quoted '%q ' "$@"
    cat >"$GUEST_DIR/job" <<END
cd $(printf %q "$called_from") && export PATH=$(printf %q "$PATH") KSMBD_TOOLS=$kernel/ksmbd-tools/usr/sbin && exec $quoted
END
    set +e
    timeout --kill-after=10 "${GUEST_SECONDS:-1800}" qemu-system-x86_64 -M q35 -accel tcg,thread=multi -cpu max -smp 2 \
        -m "${GUEST_MEMORY:-6G}" -nodefaults -no-user-config -display none -no-reboot -kernel "$kernel/vmlinux" \
        -append "root=host rootfstype=9p rootflags=trans=virtio,version=9p2000.L,cache=loose,msize=262144 ro \
init=$PWD/tests/kernel/init console=ttyS0 loglevel=4 panic=-1 no_timer_check net.ifnames=0" \
        -fsdev local,id=host,path=/,security_model=none,readonly=on,multidevs=remap \
        -device virtio-9p-pci,fsdev=host,mount_tag=host \
        -fsdev local,id=guest,path="$GUEST_DIR",security_model=none,multidevs=remap \
        -device virtio-9p-pci,fsdev=guest,mount_tag=guest \
        -netdev "user,id=n0,ipv6=off${GUEST_NETWORK:+,$GUEST_NETWORK}" -device virtio-net-pci,netdev=n0,romfile= \
        -device virtio-rng-pci -device isa-debug-exit,iobase=0xf4,iosize=1 \
        -device virtio-serial-pci -chardev stdio,id=out,signal=off -device virtconsole,chardev=out \
        -serial "file:$GUEST_DIR/console" </dev/null
    status=$?
    set -e
    # The device exits QEMU with 2 n + 1 for the byte n that is written to it.
    [ $((status % 2)) = 0 ] || [ ! -e "$GUEST_DIR/status" ] || exit "$(cat "$GUEST_DIR/status")"
    tail -n 20 "$GUEST_DIR/console" >&2
    [ "$status" != 124 ] || die "the guest did not end within ${GUEST_SECONDS:-1800} s"
    die "the guest did not end by itself (QEMU ended with $status); above is the end of its console"
}

main() {
    local verb=${1:-}
    declare -F "verb_$verb" >/dev/null || { sed -n '2,/^$/ s/^# \{0,1\}//p' tests/kernel/guest.sh >&2; exit 2; }
    shift
    cache=$(realpath -m "${XDG_CACHE_HOME:-$HOME/.cache}/smbdirect")
    mkdir -p "$cache"
    "verb_$verb" "$@"
    exit 0
}

# In a function, so that bash reads the whole file before it runs anything: the file may be edited meanwhile.
main "$@"
