#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Runs Linux in QEMU with software RDMA (siw, rxe), the kernel's own SMB client and its own SMB server:
#
#   tests/kernel/guest.sh deps           install what this script needs (apt, as root)
#   tests/kernel/guest.sh build          fetch the newest kernel of Debian 13, and build the modules that it lacks
#   tests/kernel/guest.sh headers        print the directory to build modules with (KDIR in their makefiles)
#   tests/kernel/guest.sh run COMMAND... run a command as root in the guest, and exit with its status
#
# The guest sees this machine's files. Whatever it writes to them is lost when it ends, except in the directory
# GUEST_DIR. The command's output is printed; the kernel's messages are in GUEST_DIR/dmesg, and the console's output is
# in GUEST_DIR/console. KVM is not needed: the guest's processors are emulated, at about a tenth of the speed.
#
# GUEST_DIR=     a directory of this machine in which the guest may write (a temporary one; /mnt/guest in the guest)
# GUEST_MODULES= files with modules to load before the command, separated by blanks
# GUEST_SECONDS= seconds after which the guest is stopped (1800)
# GUEST_MEMORY=  the guest's memory (6G)
# GUEST_SYSTEM=  the root directory of a Debian whose systemd the guest starts. A service of it runs the command, in the
#                directory /machine, where this machine's files are then
# GUEST_NETWORK= more options of QEMU's user network, such as hostfwd=tcp:127.0.0.1:5445-:5445
# KERNEL=debug   a kernel that checks its memory and its locks (tests/kernel/config.debug), built from the source of
#                Linux 7.2 that Debian 13 has in its backports; LINUX=linux-source-7.3 names another one
# KERNEL_SRC=    a tarball or directory with another source of Linux, from which the whole kernel is built
# KERNEL_CONFIG= a file with additional options for that kernel, such as CONFIG_KASAN=y
# JOBS=          how many compilers run at once (as many as there are processors)
#
# The kernel is kept in ${XDG_CACHE_HOME:-~/.cache}/smbdirect, named after a hash of what it was made from.

# The functions for the verbs are called by name.
# shellcheck disable=SC2317
set -euo pipefail
called_from=$PWD
# The paths are relative to the caller's directory.
[ -z "${KERNEL_SRC:-}" ] || KERNEL_SRC=$(realpath -e "$KERNEL_SRC")
[ -z "${KERNEL_CONFIG:-}" ] || KERNEL_CONFIG=$(realpath -e "$KERNEL_CONFIG")
[ -z "${GUEST_SYSTEM:-}" ] || GUEST_SYSTEM=$(realpath -e "$GUEST_SYSTEM")
cd "$(dirname "$0")/../.."
. tools/lib.sh
. tests/kernel/kernel.sh

suite=trixie
linux=linux-source-6.12

packages=(bc binutils bison ccache cifs-utils cpio dpkg-dev fio flex gcc ibverbs-providers iproute2 kmod libc6-dev
    libelf-dev libglib2.0-0 libnl-3-200 libnl-genl-3-200 make perl python3 qemu-system-x86 rdma-core rsync seabios xz-utils
    zstd)
# The name of this package has changed.
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

# Fetches the source for KERNEL=debug from the backports, at most once a day, and keeps the newest.
fetch_source() {
    local linux=${LINUX:-linux-source-7.2} work name
    mkdir -p "$cache/backports"
    [ -z "$(find "$cache/backports" -name "${linux}_*.tar.xz" -newermt '1 day ago')" ] || return 0
    say "asking the Debian mirror for $linux"
    work=$(mktemp -d "$cache/backports/apt.XXXXXX")
    if debian_apt "$work" "$suite-backports" deb && logged "$work/log" apt-get "${debian_apt[@]}" update &&
        (cd "$work" && logged log apt-get "${debian_apt[@]}" download "$linux"); then
        name=$(basename "$work"/*.deb _all.deb)
        if [ ! -e "$cache/backports/$name.tar.xz" ]; then
            dpkg-deb --fsys-tarfile "$work/$name"_all.deb | tar -x -O "./usr/src/$linux.tar.xz" >"$work/source"
            rm -f "$cache/backports/${linux}_"*.tar.xz
            mv "$work/source" "$cache/backports/$name.tar.xz"
        fi
        touch "$cache/backports/$name.tar.xz"
    else
        say "that did not work: continuing with what was fetched earlier"
    fi
    rm -rf "$work"
}

# Sets what KERNEL=debug stands for.
debug_kernel() {
    KERNEL_CONFIG=$PWD/tests/kernel/config.debug
    KERNEL_SRC=$(find "$cache/backports" -name "${LINUX:-linux-source-7.2}_*.tar.xz" 2>/dev/null)
    [ -n "$KERNEL_SRC" ] || die "there is no source for KERNEL=debug: KERNEL=debug tests/kernel/guest.sh build"
}

# Fetches Debian's packages, at most once a day: a kernel, what its modules are built with, ksmbd's user-space programs,
# and a shell for the initrd. linux-newest has the kernel's release and the packages' version.
fetch() {
    local work release version names
    mkdir -p "$cache/source"
    [ -z "$(find "$cache/source/linux-newest" -mmin -1440 -size +0 2>/dev/null)" ] || ! fetched || return 0
    say "asking the Debian mirror for the newest kernel and ksmbd-tools of Debian 13"
    work=$(mktemp -d "$cache/source/apt.XXXXXX")
    mkdir "$work/got"
    # Do not fetch a package that is already here with the right checksum.
    ln "$cache/source"/{linux-,ksmbd-tools_,busybox-static_}*.deb "$work/got/" 2>/dev/null || true
    if debian_apt "$work" "$suite" deb && logged "$work/log" apt-get "${debian_apt[@]}" update &&
        read -r release version < <(newest_kernel "${debian_apt[@]}") &&
        mapfile -t names < <(kernel_packages "$release" | sed "s/\$/=$version/") &&
        (cd "$work/got" && logged ../log apt-get "${debian_apt[@]}" download "${names[@]}" ksmbd-tools busybox-static); then
        newest_only "$work/got" ksmbd-tools
        newest_only "$work/got" busybox-static
        find "$work/got" -name 'linux-*' ! -name "*_${version/:/%3a}_*" -delete
        rm -f "$cache/source"/{linux-,ksmbd-tools_,busybox-static_}*.deb
        mv "$work/got"/*.deb "$cache/source/"
        echo "$release $version" >"$cache/source/linux-newest"
    elif fetched; then
        say "that did not work: continuing with Linux $(cut -d ' ' -f 1 "$cache/source/linux-newest"), fetched earlier"
    else
        rm -rf "$work"
        die "no kernel: try again, or set KERNEL_SRC=<a tarball or directory>"
    fi
    rm -rf "$work"
}

# Prints the release and the version of the newest kernel for which everything is available. Its signed image may come
# later than its source.
newest_kernel() {
    local release version
    apt-cache "$@" show linux-image-amd64 |
        sed -n 's/^Depends: linux-image-\([^ ]*\) (= \([^)]*\)).*/\2 \1/p' | sort -Vru >"$work/kernels"
    while read -r version release; do
        kernel_packages "$release" | sed "s/\$/=$version/" | xargs apt-cache "$@" show >/dev/null 2>&1 || continue
        echo "$release $version"
        return 0
    done <"$work/kernels"
    echo "the Debian mirror has no kernel" >&2
    return 1
}

kernel_packages() {
    printf '%s\n' "linux-image-$1" "linux-headers-$1" "linux-headers-${1%-*}-common" "linux-kbuild-${1%-*}" "$linux"
}

# Tells whether everything for the newest kernel is here.
fetched() {
    local release version name
    read -r release version 2>/dev/null <"$cache/source/linux-newest" || return 1
    for name in $(kernel_packages "$release") ksmbd-tools busybox-static; do
        [ -e "$(deb "$name")" ] || return 1
    done
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
        if [ -n "${KERNEL_SRC:-}" ]; then
            echo "$KERNEL_SRC"
            cat tests/kernel/config ${KERNEL_CONFIG:+"$KERNEL_CONFIG"}
        else
            cat "$cache/source/linux-newest"
        fi
        cat tests/kernel/kernel.sh tests/kernel/initrd
        gcc -dumpfullversion
    } | sha256sum | cut -c 1-10)
    echo "$cache/kernel-$key"
}

# Prints the kernel's directory, if it exists.
kernel() {
    local kernel
    [ "${KERNEL:-}" != debug ] || debug_kernel
    kernel=$(kernel_path)
    [ -e "$kernel/vmlinux" ] || die "the guest's kernel is not built yet: tests/kernel/guest.sh build"
    echo "$kernel"
}

verb_build() {
    local kernel work started=$SECONDS
    verb_deps
    exec 9>"$cache/kernel-lock"
    flock --nonblock 9 || { say "waiting for another guest.sh that builds"; flock 9; }
    fetch
    [ "${KERNEL:-}" != debug ] || { fetch_source && debug_kernel; }
    kernel=$(kernel_path)
    if [ -e "$kernel/vmlinux" ]; then
        touch "$kernel"
        say "the guest's kernel is $kernel/vmlinux"
        return 0
    fi
    work=$kernel.new
    rm -rf "$cache"/kernel-*.new
    mkdir "$work"
    if [ -n "${KERNEL_SRC:-}" ]; then
        built_kernel "$work"
    else
        debian_kernel "$work" "$(cut -d ' ' -f 1 "$cache/source/linux-newest")"
    fi
    dpkg-deb -x "$(deb ksmbd-tools)" "$work/ksmbd-tools"
    mv "$work/vmlinux.new" "$work/vmlinux"
    mv "$work" "$kernel"
    # Keep the three kernels that were used most recently.
    find "$cache" -maxdepth 1 -name 'kernel-*' -type d -printf '%T@ %p\n' | sort -rn | tail -n +4 | cut -d ' ' -f 2- |
        xargs -r rm -rf
    say "built in $((SECONDS - started)) s: $kernel/vmlinux"
}

verb_headers() {
    local kernel
    kernel=$(kernel)
    echo "$kernel/build"
}

# ---- the guest

verb_run() {
    local kernel status quoted module root boot
    [ $# != 0 ] || die "which command?"
    kernel=$(kernel)
    if [ -z "${GUEST_DIR:-}" ]; then
        GUEST_DIR=$(mktemp -d)
        trap 'rm -rf "$GUEST_DIR"' EXIT
    fi
    mkdir -p "$GUEST_DIR"
    GUEST_DIR=$(realpath "$GUEST_DIR")
    rm -f "$GUEST_DIR"/{dmesg,console,status,modules}
    for module in ${GUEST_MODULES:-}; do
        (cd "$called_from" && realpath -e "$module") | sed "s,^,${GUEST_SYSTEM:+/machine}," >>"$GUEST_DIR/modules" || die "GUEST_MODULES: there is no $module"
    done
    printf -v quoted '%q ' "$@"
    if [ -n "${GUEST_SYSTEM:-}" ]; then
        echo "cd $(printf %q "/machine$called_from") && exec $quoted"
    else
        echo "cd $(printf %q "$called_from") && export PATH=$(printf %q "$PATH") KSMBD_TOOLS=$kernel/ksmbd-tools/usr/sbin && exec $quoted"
    fi >"$GUEST_DIR/job"
    root=trans=virtio,version=9p2000.L,cache=loose,msize=262144
    # A kernel that needs no initrd finds its root directory by itself.
    boot=(-append "GUEST_KERNEL=$kernel GUEST_INIT=$PWD/tests/kernel/init ${GUEST_SYSTEM:+GUEST_SYSTEM=$GUEST_SYSTEM }GUEST_ROOT_OPTIONS=ro,$root \
root=host rootfstype=9p rootflags=$root ro init=$PWD/tests/kernel/init \
console=ttyS0 loglevel=4 log_buf_len=16M panic=-1 no_timer_check net.ifnames=0 mitigations=off")
    [ ! -e "$kernel/initrd" ] || boot+=(-initrd "$kernel/initrd")
    set +e
    timeout --kill-after=10 "${GUEST_SECONDS:-1800}" qemu-system-x86_64 -M q35 -accel tcg,thread=multi -cpu max -smp 2 \
        -m "${GUEST_MEMORY:-6G}" -nodefaults -no-user-config -display none -no-reboot -kernel "$kernel/vmlinux" \
        "${boot[@]}" \
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
    # For a byte n that is written to it, the device exits QEMU with status 2 n + 1.
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

# All code is in a function, so that bash reads the whole file before it runs anything, and the file may be edited
# meanwhile.
main "$@"
