#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Builds and tests Debian 13's samba packages with SMB Direct: tools/deb_samba.sh <verb>
#
#   build     build Debian's source package of samba with samba-patches, in target/deb-samba (as root)
#   rebuild   ask the Debian mirror for the newest samba first, as for a security update
#   check     say in seconds whether a rebuild is due, and whether the patches still apply. The exit status is 0 if
#             nothing is due, 3 if a rebuild is due, and 1 if the patches do not apply or something else failed
#   test      build, and install, serve, update and purge the packages in a fresh Debian 13 (as root)
#
# JOBS=      how many compilers run at once (as many as there are processors)
# REVISION=  the number after +0smbdirect in the version (1, or higher if the same samba was built with other patches)
#
# The packages are those of Debian, with the same names and files, and samba-smbdirect. Their debug symbols are left
# out (DEB_BUILD_OPTIONS=). The build runs in a Debian 13 of its own in ${XDG_CACHE_HOME:-~/.cache}/smbdirect/deb-samba,
# which also has a compiler cache, and which you may delete. The same command continues an interrupted build.

# The functions for the verbs are called by name.
# shellcheck disable=SC2317
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/lib.sh

release=4.22
suite=trixie
series=samba-patches/v4-22
packaging=contrib/packaging/debian-samba
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
out=$target/deb-samba
cache=$(realpath -m "${XDG_CACHE_HOME:-$HOME/.cache}/smbdirect/deb-samba")
root=$cache/root
# The tree always has the same name, because the compiler cache sees the names of directories.
tree=$root/build/samba

die() {
    printf 'deb_samba.sh: %s\n' "$*" >&2
    exit 1
}

say() {
    printf -- '-- %s\n' "$*"
}

lock_cache() {
    mkdir -p "$cache"
    exec 9>"$cache/lock"
    flock --nonblock 9 && return 0
    say "waiting for another deb_samba.sh that uses $cache"
    flock 9
}

# ---- the source

# Sets debian_version to the version of Debian's source package, and dsc to its file. Asks the mirror once a day, or
# always with `fetch newest`. apt checks the signature of the archive, and through it the checksums of the files.
debian_version='' dsc=''
fetch() {
    local upstream
    apt_need dpkg-dev xz-utils patch
    mkdir -p "$cache/source"
    if [ "${1:-}" = newest ] || [ -z "$(find "$cache/source/version" -mmin -1440 2>/dev/null)" ]; then
        say "asking the Debian mirror for the newest samba of $suite"
        rm -f "$cache/source/version"
        debian_apt "$cache/apt" "$suite" deb-src || die "no mirror of Debian"
        logged "$cache/fetch.log" apt-get "${debian_apt[@]}" update || die "the mirror of Debian does not answer"
        debian_version=$(newest_samba "$release" "$suite" "${debian_apt[@]}") || die "no source of samba"
        (cd "$cache/source" &&
            logged "$cache/fetch.log" apt-get "${debian_apt[@]}" source --download-only "samba=$debian_version") ||
            die "apt cannot fetch the source of samba $debian_version"
        echo "$debian_version" >"$cache/source/version"
    fi
    debian_version=$(cat "$cache/source/version")
    upstream=${debian_version#*:}
    dsc=$cache/source/samba_$upstream.dsc
    find "$cache/source" -name 'samba_*' ! -name "samba_$upstream.*" ! -name "samba_${upstream%-*}.orig*" -delete
    say "Debian's samba $debian_version"
}

# Prints a hash of what makes our packages different from Debian's.
our_part() {
    {
        echo 1
        patches_of "$series" | (cd "$series" && xargs cat)
        cat "$packaging"/*
        cat include/smbdirect.h
    } | sha256sum | cut -c 1-16
}

# The record of the packages in target/deb-samba: Debian's version, our number, and the hash of our part.
built_version='' built_number=0 built_part=''
read_record() {
    [ ! -e "$out/built" ] || read -r built_version built_number built_part <"$out/built"
}

# Sets number to the number after +0smbdirect that the next packages get.
number=1
next_number() {
    read_record
    if [ -n "${REVISION:-}" ]; then
        number=$REVISION
    elif [ "$built_version" = "$debian_version" ]; then
        number=$built_number
        [ "$built_part" = "$(our_part)" ] || number=$((built_number + 1))
    fi
}

# Unpacks Debian's source into a directory, adds the patches to its series, and changes its packaging.
unpack() {
    local directory=$1 patch applied
    next_number
    rm -rf "$directory"
    mkdir -p "$(dirname "$directory")"
    logged "$cache/unpack.log" dpkg-source --no-check --no-copy --extract "$dsc" "$directory" ||
        die "dpkg-source cannot unpack $dsc"
    mkdir "$directory/debian/patches/smbdirect"
    for patch in $(patches_of "$series"); do
        cp "$series/$patch" "$directory/debian/patches/smbdirect/"
        echo "smbdirect/$patch" >>"$directory/debian/patches/series"
    done
    # dpkg-source refuses patches that do not fit exactly (fuzz), as the build of a package does.
    if ! dpkg-source --before-build "$directory" >"$cache/patch.log" 2>&1; then
        applied=$directory/.pc/applied-patches
        # Comments and empty lines in Debian's series are no patches.
        patch=$(patches_of "$directory/debian/patches" | grep -vxF -f "$applied" | head -n 1) || true
        tail -n 10 "$cache/patch.log"
        [ -n "$patch" ] || die "dpkg-source does not accept samba $debian_version; the log is $cache/patch.log"
        die "$series/${patch#smbdirect/} does not apply to samba $debian_version; the log is $cache/patch.log." \
            "Port the series to this version (samba-patches/README.md, \"Working on them\"), and try again"
    fi
    # Otherwise dpkg-buildpackage would take the patches out again after the build, and an interrupted build could not
    # continue.
    rm -f "$directory/.pc/.dpkg-source-unapply"
    change_packaging "$directory/debian"
    say "$(patches_of "$series" | wc -l) patches apply"
}

change_packaging() {
    local debian=$1 changelog
    mkdir "$debian/smbdirect"
    cp "$packaging"/{newer,samba-smbdirect.pref,samba-smbdirect.conf} "$debian/smbdirect/"
    cp "$packaging/samba-smbdirect.install" "$debian/"
    sed -i -e 's/^Build-Depends-Arch:$/&\n\tlibsmbdirect-dev,/' -e 's/^Maintainer:/XSBC-Original-&/' \
        -e '/^Source: samba$/a Maintainer: SMB Direct for Samba developers <smbdirect@invalid>' "$debian/control"
    cat "$packaging/control" >>"$debian/control"
    sed -i 's/^config-args = \\$/&\n\t--with-smbdirect \\/' "$debian/rules"
    if ! grep -q '^	libsmbdirect-dev,$' "$debian/control" || ! grep -q '^Maintainer: SMB Direct' "$debian/control" ||
        ! grep -q '^	--with-smbdirect \\$' "$debian/rules"; then
        die "Debian has changed debian/control or debian/rules of samba: change change_packaging in tools/deb_samba.sh"
    fi
    # Such a version sorts after Debian's, and before its updates: a digit is before the d of +deb13u1.
    # The date is that of Debian's entry, so that the same sources make the same packages.
    changelog=$debian/changelog
    {
        printf 'samba (%s+0smbdirect%s) %s; urgency=medium\n\n' "$debian_version" "$number" "$suite"
        printf '  * Add SMB Direct: the patches in debian/patches/smbdirect, --with-smbdirect,\n'
        printf '    and the package samba-smbdirect.\n\n'
        printf ' -- SMB Direct for Samba developers <smbdirect@invalid>  %s\n\n' \
            "$(sed -n '/^ -- /{ s/.*>  //p; q }' "$changelog")"
        cat "$changelog"
    } >"$changelog.new"
    mv "$changelog.new" "$changelog"
}

verb_check() {
    lock_cache
    fetch newest
    unpack "$cache/check"
    rm -rf "$cache/check"
    if [ -z "$built_version" ]; then
        say "rebuild due: there are no packages in $out yet"
    elif [ "$built_version" != "$debian_version" ]; then
        say "rebuild due: the packages in $out are of samba $built_version"
    elif [ "$built_part" != "$(our_part)" ]; then
        say "rebuild due: the packages in $out were built with other patches"
    else
        say "nothing is due: the packages in $out are of this version"
        exit 0
    fi
    exit 3
}

# ---- building

# Makes our own packages, unless they are newer than what they are made from. Sets ours to their version and
# architecture, because make test-deb leaves packages of another version there.
ours=''
our_packages() {
    local package
    ours=$(dpkg-parsechangelog --show-field Version)_$(dpkg --print-architecture)
    package=$target/deb/libsmbdirect-dev_$ours.deb
    if [ ! -e "$package" ] || [ -n "$(find src include instruments/src debian contrib docs Cargo.toml Cargo.lock \
        tools/build.sh -newer "$package" -not -path "$packaging*" -type f -print -quit)" ]; then
        say "building smbdirectd and libsmbdirect: make deb"
        logged "$cache/make-deb.log" tools/deb.sh build || die "make deb failed"
    fi
}

prepare_root() {
    if [ ! -e "$root/ready" ]; then
        say "making a Debian 13 to build in: $root"
        rm -rf "$root"
        new_root "$root" "$suite" build-essential,ccache,eatmydata "$cache" || die "no Debian 13"
        mkdir -p "$root/build"
        touch "$root/ready"
    fi
    logged "$cache/root.log" in_root "$root" sh -c \
        'apt-get -q update && apt-get -q -y dist-upgrade && apt-get -q -y autoremove --purge && apt-get clean' ||
        die "apt cannot upgrade $root; the log is $cache/root.log"
}

prepare_tree() {
    local key
    key="$debian_version $number $(our_part)"
    [ "$(cat "$root/build/prepared" 2>/dev/null)" != "$key" ] || { say "continuing the build in $tree"; return 0; }
    rm -f "$root/build/prepared" "$root"/build/*.deb
    unpack "$tree"
    echo "$key" >"$root/build/prepared"
}

install_dependencies() {
    say "installing what the build of samba needs"
    rm -rf "$root/build/ours"
    mkdir "$root/build/ours"
    cp "$target/deb"/libsmbdirect{0,-dev}_"$ours".deb "$root/build/ours/"
    logged "$cache/dependencies.log" in_root "$root" sh -c 'dpkg --install /build/ours/*.deb &&
        cd /build && apt-get -q -y --no-install-recommends build-dep ./samba && apt-get clean' ||
        die "the dependencies of samba's build cannot be installed; the log is $cache/dependencies.log"
}

compile() {
    local jobs=${JOBS:-$(nproc)}
    say "building samba $debian_version+0smbdirect$number: the first time 80 minutes on two busy processors ($cache/build.log)"
    in_root "$root" env PATH=/usr/lib/ccache:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 \
        CCACHE_DIR=/build/ccache CCACHE_MAXSIZE=4G CCACHE_BASEDIR=/build/samba CCACHE_NOHASHDIR=1 \
        DEB_BUILD_OPTIONS="${DEB_BUILD_OPTIONS:-nocheck noautodbgsym} parallel=$jobs" \
        sh -c 'cd /build/samba && exec eatmydata dpkg-buildpackage --build=binary --no-sign --no-pre-clean' 2>&1 </dev/null |
        tee "$cache/build.log" | show_progress && return 0
    tail -n 40 "$cache/build.log" | cut -c 1-400
    die "the build failed; its output is in $cache/build.log. Once that is mended, the same command continues the build"
}

# Moves the packages to target/deb-samba, with ours beside them, and makes the list that apt needs.
collect() {
    rm -rf "$out.new"
    mkdir -p "$out.new"
    mv "$root"/build/*.deb "$out.new/"
    cp "$target/deb"/{smbdirectd,libsmbdirect0,libsmbdirect-dev}_"$ours".deb "$out.new/"
    (cd "$out.new" && dpkg-scanpackages --multiversion . >Packages 2>"$cache/packages.log") || die "no list of packages"
    echo "$debian_version $number $(our_part)" >"$out.new/built"
    rm -rf "$out"
    mv "$out.new" "$out"
    rm -rf "$tree" "$root/build/prepared"
}

build() {
    local started=$SECONDS
    [ "$(id -u)" = 0 ] || die "only root can make a Debian to build in: run this as root"
    lock_cache
    fetch "$@"
    next_number
    if [ "$built_version $built_number $built_part" = "$debian_version $number $(our_part)" ]; then
        say "built already: $out"
        return 0
    fi
    our_packages
    prepare_root
    prepare_tree
    install_dependencies
    compile
    collect
    say "built $(find "$out" -name '*.deb' | wc -l) packages in $(((SECONDS - started) / 60)) minutes: $out"
    say "to install them: README.md, \"Install it\""
}

verb_build() {
    build
}

verb_rebuild() {
    build newest
}

# ---- tests

verb_test() {
    local fresh
    [ "$(id -u)" = 0 ] || { skipped "Debian's samba with SMB Direct in a fresh Debian: needs root"; return 0; }
    build
    fresh=$(mktemp -d)
    # shellcheck disable=SC2064
    trap "rm -rf --one-file-system '$fresh'" EXIT
    say "a fresh Debian, $suite"
    new_root "$fresh" "$suite" systemd,iproute2,jq "$cache" || die "no Debian 13"
    cp tools/deb_test.sh "$fresh/root/"
    cp -r "$out" "$fresh/srv/repository"
    in_root "$fresh" bash /root/deb_test.sh samba_installed
    # With a network of its own, because a server may already use the ports of this machine.
    in_root "$fresh" unshare --net bash /root/deb_test.sh samba_served
    in_root "$fresh" bash /root/deb_test.sh samba_held
    in_root "$fresh" bash /root/deb_test.sh samba_purged
    say "the packages install, serve a share by RDMA, are kept when Debian has a newer samba, and can be purged"
}

main() {
    declare -F "verb_${1:-}" >/dev/null || { sed -n '2,/^$/ s/^# \{0,1\}//p' tools/deb_samba.sh >&2; exit 2; }
    "verb_$1"
    exit 0
}

# All code is in functions, so that bash reads the whole file before it runs anything.
main "$@"
