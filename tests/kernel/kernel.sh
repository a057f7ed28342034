# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash disable=SC2154
# Makes a kernel for guest.sh: either the one that Debian 13 ships, with the modules that Debian leaves out, or one from
# another source, with everything built in. The hash of this file is part of a kernel's name in the cache.
#
# A kernel's directory has
#
#   vmlinux       what QEMU boots
#   initrd        loads the modules that the root directory needs (the one from another source needs none)
#   lib/modules   the modules, in the layout that modprobe expects
#   build         the directory to build out-of-tree modules with (KDIR in their makefiles)
#   ksmbd-tools   ksmbd's programs in user space

# The modules that the guest needs, and the directories of Debian's kernel that have them and their dependencies.
needed_modules=(siw cifs ksmbd rdma_rxe rdma_ucm ib_uverbs dummy)
distribution_modules=(arch/x86/crypto crypto lib fs/9p fs/configfs fs/netfs fs/nls fs/overlayfs fs/smb/common net/9p
    net/core net/dns_resolver net/ipv4 net/ipv6 net/key net/netlink net/packet net/sched net/unix drivers/block
    drivers/char/hw_random drivers/infiniband/core drivers/infiniband/sw drivers/net/dummy.ko.xz
    drivers/net/net_failover.ko.xz drivers/net/veth.ko.xz drivers/net/virtio_net.ko.xz drivers/virtio)

# The modules that the guest needs before it has a root directory.
early_modules=(9pnet_virtio 9p overlay virtio_net)

# The options of kbuild for the modules that Debian leaves out, as make variables and as macros.
smb_direct=(CONFIG_RDMA_SIW=m CONFIG_CIFS_SMB_DIRECT=y CONFIG_SMB_SERVER_SMBDIRECT=y
    KCPPFLAGS="-DCONFIG_CIFS_SMB_DIRECT=1 -DCONFIG_SMB_SERVER_SMBDIRECT=1")

kbuild() {
    env -u MAKEFLAGS -u MFLAGS -u MAKELEVEL CCACHE_DIR="${CCACHE_DIR:-$cache/ccache}" CCACHE_MAXSIZE=2G \
        KBUILD_BUILD_TIMESTAMP=1 make "-j${JOBS:-$(nproc)}" CC="ccache gcc" HOSTCC="ccache gcc" "$@"
}

# ---- Debian's kernel

# debian_kernel DIRECTORY RELEASE: RELEASE looks like 6.12.118+deb13-amd64.
debian_kernel() {
    local work=$1 release=$2
    say "unpacking Linux $release of Debian 13"
    mkdir -p "$work"/{source,image,build.root,tools}
    linux_source "$work/source" &
    dpkg-deb -x "$(deb "linux-image-$release")" "$work/image"
    for package in "linux-headers-$release" "linux-headers-${release%-*}-common" "linux-kbuild-${release%-*}"; do
        dpkg-deb -x "$(deb "$package")" "$work/build.root"
    done
    wait $! || die "the source of Linux cannot be unpacked"
    rm -rf "$work/build.root/usr/share"
    ln -s "build.root/usr/src/linux-headers-$release" "$work/build"
    say "building siw, cifs and ksmbd with SMB Direct for it"
    headers "$work" "$release"
    smb_direct_modules "$work"
    modules "$work" "$release"
    "$work/source/scripts/extract-vmlinux" "$work/image/boot/vmlinuz-$release" >"$work/vmlinux.new" ||
        die "vmlinuz-$release cannot be unpacked"
    initrd "$work" "$release"
    rm -rf "$work"/{source,image,tools,modules,needed,early}
}

# Unpacks only the part of the source that kbuild's programs and the modules are made of. Writing and removing all of it
# takes longer than building the modules.
linux_source() {
    dpkg-deb --fsys-tarfile "$(deb "$linux")" | tar -x -O "./usr/src/$linux.tar.xz" |
        tar -C "$1" --strip-components=1 -xJ --wildcards "$linux/Makefile" "$linux/Kbuild" '*/Kconfig*' '*.config' \
            "$linux"/{'arch/x86/*','include/*','scripts/*',kernel/bounds.c,kernel/time/timeconst.bc} \
            "$linux"/tools/{Makefile,'arch/x86/*','build/*','include/*','lib/*','objtool/*','scripts/*'} \
            "$linux"/{'drivers/infiniband/sw/siw/*','fs/smb/*','fs/nls/*'}
}

# Debian's headers expect to be below /usr, and they expect the compiler of Debian 13, and its C library for kbuild's
# own programs. So these programs are rebuilt, and the compiler is the machine's.
headers() {
    local work=$1 release=$2 scripts=$1/build/scripts name
    # shellcheck disable=SC2016
    echo 'include $(dir $(lastword $(MAKEFILE_LIST)))'"../linux-headers-${release%-*}-common/Makefile" >"$work/build/Makefile"
    sed -i 's/^CC = .*/CC = gcc/; /^override CROSS_COMPILE/d' "$work/build/.kernelvariables"
    # Leave out type information for BPF, which needs pahole, debug information, and the options that only gcc 14 has.
    sed -i '/^CONFIG_DEBUG_INFO_BTF_MODULES=/d; /^CONFIG_DEBUG_INFO=/d' "$work/build/include/config/auto.conf"
    gcc -fmin-function-alignment=16 -E -x c /dev/null >/dev/null 2>&1 ||
        sed -i '/^CONFIG_CC_HAS_MIN_FUNCTION_ALIGNMENT=/d' "$work/build/include/config/auto.conf"
    logged "$work/log" kbuild -C "$work/source" O="$work/tools" tinyconfig || die "make tinyconfig"
    printf 'CONFIG_%s=y\n' 64BIT SMP MODULES MODVERSIONS OBJTOOL UNWINDER_ORC STACK_VALIDATION >>"$work/tools/.config"
    logged "$work/log" kbuild -C "$work/source" O="$work/tools" olddefconfig || die "make olddefconfig"
    logged "$work/log" kbuild -C "$work/source" O="$work/tools" modules_prepare || die "the programs of kbuild do not build"
    for name in scripts/basic/fixdep scripts/genksyms/genksyms scripts/mod/modpost tools/objtool/objtool; do
        cp --remove-destination "$work/tools/$name" "$work/build/$name"
    done
    gcc -O2 -I"$work/source/include" -o "$scripts/asn1_compiler" "$work/source/scripts/asn1_compiler.c"
}

smb_direct_modules() {
    local work=$1
    mkdir "$work/modules"
    (cd "$work/source" && cp -a --parents -t "$work/modules" drivers/infiniband/sw/siw fs/smb fs/nls/*.h)
    echo 'obj-y += drivers/infiniband/sw/siw/ fs/smb/client/ fs/smb/server/' >"$work/modules/Kbuild"
    logged "$work/log" kbuild -C "$work/build" M="$work/modules" "${smb_direct[@]}" modules ||
        die "the modules do not build; the whole output is in $work/log"
}

# Puts the modules into lib/modules, and fails if the kernel would refuse one.
modules() {
    local work=$1 release=$2 all="$1/lib/modules/$2" name
    # Depending on its version, kmod looks in one directory or the other.
    mkdir -p "$work/usr/lib"
    ln -s usr/lib "$work/lib"
    mkdir -p "$all/kernel"
    (cd "$work/image/usr/lib/modules/$release" && cp modules.builtin modules.builtin.modinfo modules.order "$all/" &&
        cd kernel && find "${distribution_modules[@]}" -name '*.ko.xz' -print0 | xargs -0 cp --parents -t "$all/kernel")
    find "$all" -name '*.ko.xz' -print0 | xargs -0 -P "$(nproc)" -n 50 unxz
    for name in drivers/infiniband/sw/siw/siw fs/smb/client/cifs fs/smb/server/ksmbd; do
        strip --strip-debug -o "$all/kernel/${name##*/}.ko" "$work/modules/$name.ko"
    done
    logged "$work/log" depmod -b "$work" -e -E "$work/build/Module.symvers" "$release" || die "depmod"
    insmods "$work" "$release" "${needed_modules[@]}" "${early_modules[@]}" >"$work/needed"
    ! grep -Ff "$work/needed" "$work/log" || die "the modules above have unresolved symbols"
    name=$(modinfo -F vermagic "$all"/kernel/{{siw,cifs,ksmbd},drivers/infiniband/core/ib_core}.ko | sort -u)
    [[ $name == "$release "* && $name != *$'\n'* ]] ||
        die "the modules that were built are not for Linux $release"
}

# Prints the files of modules and of their dependencies, in the order in which they have to be loaded.
insmods() {
    local work=$1 release=$2 name
    shift 2
    for name; do
        modprobe -d "$work" -S "$release" --show-depends "$name" || die "there is no module $name"
    done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }'
}

# Makes an initrd with a few modules, and a shell to load them.
initrd() {
    local work=$1 release=$2 root=$1/initrd.root file number=0
    mkdir -p "$root"/{bin,dev,modules,root}
    dpkg-deb --fsys-tarfile "$(deb busybox-static)" | tar -x -C "$root/bin" --strip-components=3 ./usr/bin/busybox
    cp tests/kernel/initrd "$root/init"
    insmods "$work" "$release" "${early_modules[@]}" >"$work/early"
    while read -r file; do
        number=$((number + 1))
        cp "$file" "$(printf '%s/modules/%02d-%s' "$root" "$number" "${file##*/}")"
    done <"$work/early"
    (cd "$root" && find . -mindepth 1 | cpio --quiet -o -H newc) >"$work/initrd"
    rm -rf "$root"
}

# ---- a kernel from another source

# built_kernel DIRECTORY: builds in everything of tests/kernel/config. The source stays, because modules need it.
built_kernel() {
    local work=$1
    mkdir -p "$work/source" "$work/build"
    say "unpacking $KERNEL_SRC"
    if [ -d "$KERNEL_SRC" ]; then
        cp -a "$KERNEL_SRC/." "$work/source"
    else
        tar -C "$work/source" --strip-components=1 -xf "$KERNEL_SRC"
    fi
    say "building the guest's kernel"
    logged "$work/log" kbuild -C "$work/source" O="$work/build" tinyconfig || die "make tinyconfig"
    cat tests/kernel/config ${KERNEL_CONFIG:+"$KERNEL_CONFIG"} >>"$work/build/.config"
    logged "$work/log" kbuild -C "$work/source" O="$work/build" olddefconfig || die "make olddefconfig"
    configured "$work/build"
    kbuild -C "$work/source" O="$work/build" vmlinux modules 2>&1 </dev/null | tee "$work/log" | show_progress ||
        { tail -n 30 "$work/log"; die "the kernel does not build; its output is in $work/log"; }
    objcopy --strip-debug "$work/build/vmlinux" "$work/vmlinux.new"
    # The directory is renamed afterwards.
    sed -i "s,$work/,${work%.new}/,g" "$work/build/Makefile"
    ln -sfn ../source "$work/build/source"
}

# Checks that the kernel's configuration has every line of ours: kconfig silently drops options that its version does
# not know or that lack a dependency.
configured() {
    local missing
    missing=$(grep -E '^CONFIG_|is not set$' tests/kernel/config | grep -vxFf "$1/.config" | grep -v 'is not set$' || true)
    [ -z "$missing" ] || say "this kernel lacks: $(tr '\n' ' ' <<<"$missing")"
    ! grep -qE '^CONFIG_(RDMA_SIW|RDMA_RXE|CIFS_SMB_DIRECT|SMB_SERVER_SMBDIRECT|PVH|OVERLAY_FS|9P_FS)=' <<<"$missing" ||
        die "the tests need at least one of these options"
}

# Prints a line every 15 seconds: how many files are done, and about how many there are.
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
