#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Builds and tests Samba with this library: tools/samba.sh <verb>
#
#   deps              install what Samba's build needs (apt, as root)
#   fetch             get the newest Samba of the release that Debian 13 has; once a day at most
#   patch             unpack it, apply samba-patches, and put this repository into it as lib/smbdirect
#   build [target]... fetch, patch, configure and build the servers and test programs, or `all`, or targets of waf
#   waf DIR TARGET... build targets in a tree as it is, with any changes that were made there
#   warnings          compile the files that the patches touch with the warnings of Samba's developers as errors
#   selftest [TEST]... build all, and run Samba's own tests over SMB Direct, or those whose names match
#   path              print the path of the build tree (its programs are in bin/)
#   user COMMAND...   run a command as an unprivileged user; Samba's own tests need that
#   checkout DIR      a git tree with Samba as tag `base` and each patch as a commit, to work on them
#   export DIR        make samba-patches from the commits of such a tree
#   check [N [M]]     check each patch, or those from N to M after an earlier check: its form, that smbd builds without
#                     warnings, and tests over TCP; check that smbd without the option has no trace of the patches
#   installed         build smbd with an installed libsmbdirect instead of lib/smbdirect
#
# BASE=       the release of Samba: 4.22, which is the default, or 4.24; each has its own directory in samba-patches
# SAMBA_SRC=  a directory or tarball with Samba's source, instead of Debian's
# JOBS=       how many compilers run at once (as many as there are processors)
# CCACHE_DIR= the compiler cache (in the cache below)
#
# Everything is kept in ${XDG_CACHE_HOME:-~/.cache}/smbdirect, and may be removed: it is then made again. A build tree
# is named after a hash of what it was made from, and is used once its stamp exists. Sources of this repository are not
# part of the name, because they change often: the tree follows them. So two working copies of this repository need two
# caches if they build at the same time.

# The functions for the verbs are called by name.
# shellcheck disable=SC2317
set -euo pipefail
[ -z "${SAMBA_SRC:-}" ] || SAMBA_SRC=$(realpath -e "$SAMBA_SRC") # relative to the caller's directory
cd "$(dirname "$0")/.."
. tools/lib.sh

release=${BASE:-4.22}
series=samba-patches/v${release/./-}
# The suite of Debian 13 that has this release
case $release in
4.22) suite=trixie ;;
4.24) suite=trixie-backports ;;
*) echo "samba.sh: there are no patches for Samba $release: BASE is 4.22 or 4.24" >&2 && exit 1 ;;
esac

configure_options=(--enable-selftest --without-ad-dc --with-system-mitkrb5 --disable-cups --disable-iprint --disable-avahi
    --without-gpgme --disable-glusterfs --disable-cephfs --disable-spotlight --with-profiling-data)

# The servers, and the programs that test and measure them from outside.
default_targets=(smbd/smbd smbpasswd pdbedit testparm smbcontrol smbstatus client/smbclient samba-dcerpcd rpcd_classic
    smbtorture vfs_acl_xattr vfs_streams_xattr vfs_delay_inject)

packages=(acl attr binutils bison ccache docbook-xml docbook-xsl flex gcc git gnutls-bin libacl1-dev libarchive-dev
    libattr1-dev libblkid-dev libbsd-dev libcap-dev libcmocka-dev libdbus-1-dev libgnutls28-dev libicu-dev
    libjansson-dev libkeyutils-dev libkrb5-dev libldap-dev liblmdb-dev libncurses-dev libpam0g-dev libparse-yapp-perl
    libpopt-dev libreadline-dev libsystemd-dev libtasn1-6-dev libtasn1-bin libunwind-dev liburing-dev pkg-config
    python3-cryptography python3-dev python3-dnspython python3-iso8601 python3-markdown python3-pyasn1
    python3-setproctitle util-linux xfslibs-dev xsltproc xz-utils zlib1g-dev)

die() {
    printf 'samba.sh: %s\n' "$*" >&2
    exit 1
}

say() {
    printf -- '-- %s\n' "$*"
}

# Lets only one process at a time change the cache. The lock is a descriptor of this process and its children.
lock_cache() {
    exec 9>"$cache/lock"
    flock --nonblock 9 && return 0
    say "waiting for another samba.sh that uses $cache"
    flock 9
}

verb_deps() {
    if ! command -v dpkg-query >/dev/null; then
        say "not a Debian system: install what Samba's build needs (tools/samba.sh has the list)"
        return 0
    fi
    apt_need "${packages[@]}"
}

# ---- the source

verb_fetch() {
    lock_cache
    fetch
}

fetch() {
    [ -z "${SAMBA_SRC:-}" ] || return 0
    mkdir -p "$cache/source"
    if [ -n "$(find "$cache/source/newest-$release" -mmin -1440 2>/dev/null)" ] && [ -e "$(fetched)" ]; then
        return 0
    fi
    say "asking the Debian mirror for the newest Samba $release of $suite"
    if fetch_newest; then
        say "$(basename "$(fetched)")"
    elif [ -e "$(fetched)" ]; then
        say "that did not work: continuing with $(basename "$(fetched)"), fetched earlier"
    else
        die "no source of Samba: try again, or set SAMBA_SRC=<a directory or tarball with Samba $release>"
    fi
}

fetched() {
    echo "$cache/source/$(cat "$cache/source/newest-$release" 2>/dev/null || echo none)"
}

# apt checks the signature of the archive, and through it the checksum of the tarball.
fetch_newest() {
    local work version tarball
    work=$(mktemp -d "$cache/source/apt.XXXXXX")
    # Do not fetch a tarball that is already here with the right checksum.
    [ ! -e "$(fetched)" ] || ln "$(fetched)" "$work/"
    if debian_apt "$work" "$suite" deb-src &&
        logged "$work/log" apt-get "${debian_apt[@]}" update &&
        version=$(newest_samba "$release" "$suite" "${debian_apt[@]}") &&
        (cd "$work" && logged log apt-get "${debian_apt[@]}" source --download-only --tar-only "samba=$version"); then
        tarball=$(cd "$work" && ls samba_"$release".*.orig.tar.*)
        mv "$work/$tarball" "$cache/source/$tarball"
        echo "$tarball" >"$work/newest"
        mv "$work/newest" "$cache/source/newest-$release"
        find "$cache/source" -name "samba_$release.*" ! -name "$tarball" -delete
        rm -rf "$work"
        return 0
    fi
    rm -rf "$work"
    return 1
}

# Writes the source as a tar stream: a directory without its name, a tarball as it is.
source_stream() {
    if [ -d "${SAMBA_SRC:-}" ]; then
        tar -C "$SAMBA_SRC" --exclude=./bin --exclude=./st --exclude=./.git --exclude='./.lock-w*' --sort=name -c .
    else
        cat "${SAMBA_SRC:-$(fetched)}"
    fi
}

unpack() {
    local directory=$1 found
    rm -rf "$directory"
    mkdir -p "$directory"
    if [ -d "${SAMBA_SRC:-}" ]; then
        source_stream | tar -C "$directory" -x
    else
        tar -C "$directory" --strip-components=1 --no-same-owner -xf "${SAMBA_SRC:-$(fetched)}"
    fi
    found=$(sed -n 's/^SAMBA_VERSION_M\(AJOR\|INOR\)=//p' "$directory/VERSION" 2>/dev/null | paste -s -d .)
    [ "$found" = "$release" ] || die "the source is of Samba ${found:-?}, but the patches are for $release"
}

# ---- the tree

patches() {
    patches_of "$series"
}

# Prints the path of the tree, named after everything that went into it except the sources of this repository.
tree_path() {
    local key
    [ -e "${SAMBA_SRC:-$(fetched)}" ] || die "no source of Samba yet: tools/samba.sh fetch"
    key=$({
        echo 1 "$cache" "${configure_options[@]}" "$cargo"
        source_stream | sha256sum
        patches | (cd "$series" && xargs cat)
        cat wscript_configure
        grep -E '^(ID|VERSION_ID)=' /etc/os-release
        gcc -dumpfullversion
    } | sha256sum | cut -c 1-10)
    echo "$cache/samba-$key"
}

# Applies a patch with git apply, because a patch must fit exactly or not at all.
apply_patch() {
    GIT_CEILING_DIRECTORIES=$(dirname "$1") git -C "$1" apply --whitespace=nowarn "$PWD/$series/$2" ||
        die "$series/$2 does not apply"
}

verb_patch() {
    lock_cache
    patch_tree
    say "$(tree_path)"
}

patch_tree() {
    local tree patch
    fetch
    tree=$(tree_path)
    if [ ! -d "$tree" ]; then
        say "unpacking and patching Samba in $tree"
        unpack "$tree.new"
        for patch in $(patches); do
            apply_patch "$tree.new" "$patch"
        done
        mv "$tree.new" "$tree"
    fi
    touch "$tree"
    copy_library "$tree"
    prune
}

# Copies this repository, including changes that are not committed, to lib/smbdirect of a tree. A file that is the same
# there is left alone, because cargo compares file times; a changed file gets the current time.
copy_library() {
    local to=$1/lib/smbdirect new=$1/.smbdirect.new name
    rm -rf "$new"
    mkdir -p "$new" "$to"
    source_files | tar -c --null --no-recursion -T - | tar -C "$new" -x -m
    (cd "$to" && find . -type f -print0 | xargs -0r sha256sum | sort) >"$1/.smbdirect.is"
    (cd "$new" && find . -type f -print0 | xargs -0r sha256sum | sort) >"$1/.smbdirect.wanted"
    comm -23 "$1/.smbdirect.wanted" "$1/.smbdirect.is" | cut -c 67- | while read -r name; do
        mkdir -p "$(dirname "$to/$name")"
        mv -f "$new/$name" "$to/$name"
    done
    comm -13 <(cut -c 67- "$1/.smbdirect.wanted" | sort) <(cut -c 67- "$1/.smbdirect.is" | sort) |
        (cd "$to" && xargs -d '\n' -r rm -f --)
    rm -rf "$new" "$1/.smbdirect.is" "$1/.smbdirect.wanted"
}

# Keeps the three trees that were used most recently, so that there is room for both releases, and removes the others.
# Trees still called "new" were interrupted.
prune() {
    local old
    rm -rf "$cache"/samba-*.new
    find "$cache" -maxdepth 1 -name 'samba-*' -type d -printf '%T@ %p\n' | sort -rn | tail -n +4 | cut -d ' ' -f 2- |
        while read -r old; do
            rm -rf "$old"
        done
}

# ---- building

# Compiler flags of Samba's build: none but its own, unless a verb needs others.
cflags=

# Samba's build sees only this environment: no Python from elsewhere, and no flags.
build_environment() {
    env -u MAKEFLAGS -u MFLAGS -u MAKELEVEL -u CFLAGS -u CPPFLAGS -u LDFLAGS -u RUSTFLAGS -u CARGO_BUILD_TARGET \
        PATH="/usr/sbin:/usr/bin:/sbin:/bin:$(dirname "$cargo")" PYTHON=/usr/bin/python3 PYTHONHASHSEED=1 \
        CARGO="$cargo" CC="ccache gcc" ${cflags:+CFLAGS="$cflags"} CCACHE_DIR="${CCACHE_DIR:-$cache/ccache}" CCACHE_MAXSIZE=2G \
        CCACHE_BASEDIR="$tree" CCACHE_NOHASHDIR=1 "$@"
}

# Configures the tree. An interrupted configure leaves half of its results, so without its stamp it starts again.
configure() {
    local tree=$1
    shift
    [ ! -e "$tree/bin/configured" ] || return 0
    say "configuring Samba"
    rm -rf "${tree:?}/bin" "$tree"/.lock-w*
    (cd "$tree" && logged configure.log build_environment ./configure "${configure_options[@]}" "$@") ||
        die "configure failed; its output is in $tree/configure.log and $tree/bin/config.log"
    touch "$tree/bin/configured"
}

waf_build() {
    local tree=$1 targets=()
    shift
    [ $# = 0 ] || targets=("--targets=$(IFS=, && echo "$*")")
    (cd "$tree" && build_environment ./buildtools/bin/waf build "-j${JOBS:-$(nproc)}" "${targets[@]}" 2>&1 </dev/null) |
        tee "$tree/build.log" | show_progress && return 0
    tail -n 40 "$tree/build.log" | cut -c 1-400
    die "the build failed; its output is in $tree/build.log"
}

# Fetches the crates, because the build itself must not use the network.
fetch_crates() {
    "$cargo" fetch --locked --quiet || die "cargo cannot get the crates that Cargo.lock names"
}

verb_build() {
    local tree targets=("$@") started=$SECONDS
    [ $# != 0 ] || targets=("${default_targets[@]}")
    [ "$*" != all ] || targets=()
    [ -n "$cargo" ] || die "no cargo: Rust $(minimum_rust .) or newer is needed"
    verb_deps
    fetch_crates
    lock_cache
    patch_tree
    tree=$(tree_path)
    configure "$tree" --with-smbdirect
    say "building ${targets[*]:-everything} in $tree"
    waf_build "$tree" "${targets[@]}"
    say "built in $((SECONDS - started)) s; the programs are in $tree/bin"
}

verb_waf() {
    local tree=$1
    shift
    lock_cache
    waf_build "$tree" "$@"
}

verb_warnings() {
    local tree files
    tree=$(tree_path)
    [ -e "$tree/bin/default/compile_commands.json" ] || die "nothing is built yet: tools/samba.sh build"
    mapfile -t files < <(patches | sed "s,^,$series/,")
    build_environment /usr/bin/python3 tools/samba_warnings.py "$tree" "${files[@]}"
}

verb_path() {
    local tree
    tree=$(tree_path)
    [ -e "$tree/bin/configured" ] || die "Samba is not built yet: make samba"
    echo "$tree"
}

# Becomes an unprivileged user, because root may read and write anything, and many of Samba's tests check what is not
# allowed. In a user namespace, root's files belong to such a user, so none has to be created or let into root's home.
become_user() {
    as_user=()
    [ "$(id -u)" = 0 ] || return 0
    as_user=(unshare --user --map-user=1000 --map-group=1000 --)
    "${as_user[@]}" true 2>/dev/null ||
        die "root cannot become another user here, because there are no user namespaces: run this as a user"
    as_user=(env -u LOGNAME USER=samba "${as_user[@]}")
}

verb_user() {
    [ $# != 0 ] || die "which command?"
    become_user
    exec "${as_user[@]}" "$@"
}

# Runs Samba's own tests. The log has the output of each, and st/<environment> has what the servers said.
verb_selftest() {
    local tree log tests="${*:-smbdirectserver}"
    become_user
    verb_build all
    tree=$(tree_path)
    log=$tree/selftest.log
    say "testing $tests"
    (cd "$tree" && build_environment "${as_user[@]}" ./buildtools/bin/waf testonly --tests="$tests" 2>&1 </dev/null) |
        tee "$log" |
        grep --line-buffered -E '^(\[[0-9]+\(|UNEXPECTED|ERROR:|REASON:|ALL OK|FAILED|.* is missing: )' && return 0
    die "some tests failed; their output is in $log, and the servers' logs are in $tree/st"
}

# ---- the patches

identity=(-c user.name='SMB Direct for Samba developers' -c user.email=smbdirect@invalid)

verb_checkout() {
    local directory=${1:-} patch
    [ -n "$directory" ] || die "which directory?"
    [ ! -e "$directory" ] || die "$directory is there already"
    directory=$(realpath -m "$directory")
    mkdir -p "$(dirname "$directory")"
    lock_cache
    fetch
    unpack "$directory"
    git -C "$directory" init -q -b smbdirect
    printf '%s\n' /bin/ /st/ /lib/smbdirect/ '/.lock-w*' __pycache__/ >>"$directory/.git/info/exclude"
    git -C "$directory" add -A --force .
    git -C "$directory" "${identity[@]}" commit -q -m "Samba $(sed -n 's/^samba //p' "$series/BASE")"
    git -C "$directory" tag base
    for patch in $(patches); do
        git -C "$directory" "${identity[@]}" am -q "$PWD/$series/$patch" || die "$series/$patch does not apply"
    done
    copy_library "$directory"
    say "$directory: tag base, and $(patches | wc -l) commits on it"
}

verb_export() {
    local directory=${1:-} new
    [ -e "$directory/.git" ] || die "which git tree?"
    git -C "$directory" diff --quiet HEAD -- || die "$directory has changes that are not committed"
    [ -z "$(git -C "$directory" rev-list --merges base..HEAD)" ] || die "merges in $directory: rebase it on base"
    new=$(mktemp -d "$series.XXXXXX")
    git -C "$directory" format-patch -q --zero-commit --no-numbered --no-signature -o "$PWD/$new" base..HEAD
    find "$series" -name '*.patch' -delete
    mv "$new"/*.patch "$series/"
    rmdir "$new"
    (cd "$series" && ls -- *.patch) >"$series/series"
    say "$series: $(patches | wc -l) patches"
}

# Checks what Samba's developers expect of a patch. Sets `subject` and `lines`.
subject='' lines=0
check_form() {
    local file=$series/$1 work body
    work=$(mktemp -d)
    git mailinfo "$work/body" "$work/rest" <"$file" >"$work/head" 2>/dev/null || die "$file: git mailinfo cannot read it"
    subject=$(sed -n 's/^Subject: //p' "$work/head")
    lines=$(sed -n '/^diff --git/,$p' "$work/rest" | wc -l)
    body=$(cat "$work/body")
    grep -qE '^Author: .+' "$work/head" || die "$file: no author"
    rm -rf "$work"
    [[ $subject =~ ^[A-Za-z0-9_./:-]+:\ [^\ ] ]] || die "$file: the subject does not begin with a subsystem: $subject"
    [ "${#subject}" -le 76 ] || die "$file: the subject has ${#subject} characters, at most 76 are allowed: $subject"
    [ -n "$body" ] || die "$file: the message does not say why"
    ! grep -nE '^.{81}' <<<"$body" || die "$file: the line above is longer than 80 characters"
    ! grep -qi '^Signed-off-by:' <<<"$body" || die "$file: only the person who submits a patch may sign it off"
    [ "$lines" -le "$patch_lines" ] || die "$file: $lines lines of diff, at most $patch_lines are allowed: split it"
}

# A reviewer can read about 250 lines at once; some patches that add a file are a little longer.
patch_lines=300
check_targets=(smbd/smbd smbpasswd smbstatus testparm vfs_acl_xattr vfs_streams_xattr)

# Applies one patch after the other to one tree. After each: builds smbd, compiles the files that the patch touches with
# the warnings of Samba's developers, with and without the option, and tests smbd over TCP with smbtorture. At the end
# builds the same smbd without the option and without this repository, which must contain nothing of the patches.
#
# A patch may change a header of a thousand files. So nothing is optimized but the files that are compiled for their
# warnings, and all prefixes are tested with the smbtorture of the whole series.
verb_check() {
    local smbtorture
    verb_build
    smbtorture=$(tree_path)/bin/smbtorture
    cflags=-O0
    local tree=$cache/check-$release table=$cache/check-$release.txt first=${1:-1} last=${2:-} all=() number patch started built
    mapfile -t all < <(patches)
    last=${last:-${#all[@]}}
    [ -n "$cargo" ] || die "no cargo: Rust $(minimum_rust .) or newer is needed"
    verb_deps
    fetch_crates
    lock_cache
    fetch
    if [ "$first" = 1 ]; then
        unpack "$tree"
        : >"$table"
    elif [ "$(cat "$tree/checked" 2>/dev/null)" != "$((first - 1))" ]; then
        die "the last check did not end with patch $((first - 1)): begin with an earlier one"
    fi
    for ((number = first; number <= last; number++)); do
        patch=${all[number - 1]}
        started=$SECONDS
        say "$patch"
        check_form "$patch"
        check_patch "$tree" "$patch"
        built=$SECONDS
        if ! tools/samba_tcp.py "$tree" "$smbtorture" >"$tree/tcp.log" 2>&1; then
            tail -n 40 "$tree/tcp.log"
            die "$series/$patch: the tests over TCP failed; their output is in $tree/tcp.log"
        fi
        printf '%4d  %-76s %5d %6d %6d\n' "$number" "$subject" "$lines" $((built - started)) $((SECONDS - built)) |
            tee -a "$table"
        echo "$number" >"$tree/checked"
    done
    [ "$last" = "${#all[@]}" ] || return 0
    check_without "$tree"
    say "each of ${#all[@]} patches builds and passes, and smbd without the option contains nothing of them"
    say "number, subject, lines of diff, seconds to build, seconds of tests: $table"
}

check_patch() {
    local tree=$1 patch=$2 changed
    # An earlier check may have been interrupted here.
    if [ "$(cat "$tree/applied" 2>/dev/null)" != "$patch" ]; then
        apply_patch "$tree" "$patch"
        echo "$patch" >"$tree/applied"
    fi
    copy_library "$tree"
    changed=$(git apply --numstat "$series/$patch" | cut -f 3)
    # The patch changes what configure looks at, so configure again.
    ! grep -qE '(^|/)(wscript|wscript_configure.*)$' <<<"$changed" || rm -f "$tree/bin/configured"
    configure "$tree" --with-smbdirect
    waf_build "$tree" "${check_targets[@]}"
    ! grep -q '\.c$' <<<"$changed" || {
        warnings "$tree" "$patch" && warnings --without "$tree" "$patch"
    } >"$tree/warnings.log" 2>&1 || {
        tail -n 40 "$tree/warnings.log"
        die "$series/$patch: warnings; see above and $tree/warnings.log"
    }
}

warnings() {
    local option=()
    [ "$1" != --without ] || { option=(--without) && shift; }
    build_environment /usr/bin/python3 tools/samba_warnings.py "${option[@]}" "$1" "$series/$2"
}

check_without() {
    local tree=$1
    say "without --with-smbdirect"
    rm -rf "${tree:?}/lib/smbdirect" "${tree:?}/bin" "${tree:?}/checked" "${tree:?}/applied"
    configure "$tree"
    waf_build "$tree" smbd/smbd
    if find "$tree/bin/default/source3" -name '*.o' -path '*smbd*' -print0 | xargs -0 nm -A | grep -i ' U smbdirect_' ||
        find "$tree/bin" -type f -name '*smbdirect*' | grep .; then
        die "without the option, smbd still contains parts of the patches: see above"
    fi
    rm -rf "$tree"
}

# Builds Samba with a libsmbdirect that `make install` has installed, and that Samba finds by pkg-config.
verb_installed() {
    local tree=$cache/installed-$release prefix=$cache/installed-library patch linked
    [ -n "$cargo" ] || die "no cargo: Rust $(minimum_rust .) or newer is needed"
    verb_deps
    lock_cache
    fetch
    tools/build.sh library >/dev/null
    rm -rf "$prefix"
    make --no-print-directory install-library PREFIX="$prefix" DESTDIR= >/dev/null
    unpack "$tree"
    for patch in $(patches); do
        apply_patch "$tree" "$patch"
    done
    export PKG_CONFIG_PATH=$prefix/lib/pkgconfig
    configure "$tree" --with-smbdirect
    waf_build "$tree" smbd/smbd
    linked=$(LD_LIBRARY_PATH=$prefix/lib ldd "$tree"/bin/shared/private/libsmbd-base-private-samba.so)
    grep -q "libsmbdirect\.so\.[0-9]* => $prefix/lib/" <<<"$linked" ||
        die "smbd does not use $prefix/lib/libsmbdirect.so: $(grep smbdirect <<<"$linked")"
    [[ $(LD_LIBRARY_PATH=$prefix/lib "$tree/bin/smbd" -b) == *WITH_SMBDIRECT* ]] || die "smbd was built without SMB Direct"
    rm -rf "$tree" "$prefix"
    say "smbd builds with an installed libsmbdirect"
}

main() {
    local verb=${1:-}
    declare -F "verb_$verb" >/dev/null || { sed -n '2,/^$/ s/^# \{0,1\}//p' tools/samba.sh >&2; exit 2; }
    shift
    cache=$(realpath -m "${XDG_CACHE_HOME:-$HOME/.cache}/smbdirect")
    cargo=$(command -v cargo || true)
    mkdir -p "$cache"
    "verb_$verb" "$@"
    exit 0
}

# All code is in a function, so that bash reads the whole file before it runs anything, and the file may be edited
# meanwhile.
main "$@"
