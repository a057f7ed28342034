# SPDX-License-Identifier: GPL-2.0-or-later
# Shell functions that the scripts of this repository share. Source it from bash.

# Prints why something was not done. tools/check.sh counts these lines, because a skipped check has not passed.
skipped() {
    printf 'SKIPPED: %s\n' "$*"
}

# version_at_least 1.85.0 1.85: tells whether the first version is the second or later.
version_at_least() {
    [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$2" ]
}

# Prints the version of a rustc, such as 1.85.0.
rustc_version() {
    "$1" --version 2>/dev/null | sed -n 's/^rustc \([0-9.]*\).*/\1/p'
}

# Prints the oldest Rust that the crate promises to build with.
minimum_rust() {
    sed -n 's/^rust-version = "\(.*\)"/\1/p' "${1:-.}/Cargo.toml"
}

# Installs Debian packages without asking and without removing others. Without the right to do so, prints the command.
apt_install() {
    if ! command -v apt-get >/dev/null; then
        echo "not a Debian system; install the equivalent of these packages: $*"
        return 1
    fi
    if [ "$(id -u)" != 0 ]; then
        echo "missing packages; as root: apt-get install --no-install-recommends $*"
        return 1
    fi
    apt_lists || return 1
    echo "installing $*"
    apt_get install "$@" && return 0
    echo "trying again with fresh package lists"
    apt_get update && apt_get install "$@"
}

# Installs the packages in this list that are missing.
apt_need() {
    local missing
    mapfile -t missing < <(comm -23 <(printf '%s\n' "$@" | sort) \
        <(dpkg-query -W -f '${db:Status-Status} ${Package}\n' 2>/dev/null | sed -n 's/^installed //p' | sort -u))
    [ ${#missing[@]} = 0 ] || apt_install "${missing[@]}"
}

# Makes sure that there are package lists, because a fresh image has none.
apt_lists() {
    [ -n "$(find /var/lib/apt/lists -name '*_Packages*' -print -quit 2>/dev/null)" ] && return 0
    [ "$(id -u)" = 0 ] && apt_get update
}

apt_get() {
    local verb=$1 log status
    shift
    local options=(-q -y -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3)
    [ "$verb" = install ] && options+=(--no-install-recommends --no-remove)
    log=$(mktemp)
    DEBIAN_FRONTEND=noninteractive apt-get "$verb" "${options[@]}" "$@" >"$log" 2>&1 </dev/null
    status=$?
    [ "$status" = 0 ] || tail -n 15 "$log"
    rm -f "$log"
    return "$status"
}

# Prints the versions of a package that apt can install, newest first.
apt_versions() {
    apt-cache madison "$1" 2>/dev/null | awk -F'|' '{ gsub(/ /, "", $2); print $2 }' | sort -Vru
}

# debian_apt DIRECTORY SUITE deb|deb-src: sets debian_apt to the options with which apt gets packages of another Debian
# release from the mirrors that this machine uses. apt keeps its lists in the directory, and checks the signatures.
debian_apt() {
    local directory=$1 suite=$2 kind=$3 uri suites name
    local keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    apt_lists || return 1
    mkdir -p "$directory"/{lists,archives}/partial
    # shellcheck disable=SC2016
    apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' | sort -u | while read -r uri; do
        case $suite:$uri in
        *-backports:*security*) suites=() ;;
        *-backports:*) suites=("$suite") ;;
        *security*) suites=("$suite-security") ;;
        *) suites=("$suite" "$suite-updates") ;;
        esac
        for name in "${suites[@]}"; do
            echo "$kind [signed-by=$keyring] $uri $name main"
        done
    done >"$directory/sources.list"
    if [ ! -s "$directory/sources.list" ]; then
        echo "apt knows no mirror of Debian on this machine"
        return 1
    fi
    # shellcheck disable=SC2034
    debian_apt=(-q -o Dir::Etc::SourceList="$directory/sources.list" -o Dir::Etc::SourceParts=/dev/null
        -o Dir::State::Lists="$directory/lists" -o Dir::Cache="$directory/archives" -o Acquire::Retries=3
        -o APT::Sandbox::User="$(id -un)")
}

# Runs a command, and shows its output only if it failed.
logged() {
    local log=$1
    shift
    "$@" >"$log" 2>&1 </dev/null && return 0
    tail -n 30 "$log" | cut -c 1-400
    return 1
}

# Lists the files of the working tree, including those not committed; a zero byte ends each name.
source_files() {
    local name
    if git rev-parse --is-inside-work-tree >/dev/null 2>&1; then
        git ls-files -z --cached --others --exclude-standard
    else
        find . \( -name target -o -name .git \) -prune -o \( -type f -o -type l \) -printf '%P\0'
    fi | while IFS= read -r -d '' name; do
        [ ! -f "$name" ] || printf '%s\0' "$name"
    done
}

# Copies these files to a directory and keeps their times, by which cargo knows what has changed.
copy_source() {
    rm -rf "$1"
    mkdir -p "$1"
    source_files | tar -c --null --no-recursion -T - | tar -C "$1" -x
}

# newest_samba RELEASE SUITE OPTION...: prints the newest version of the release, such as 4.22, among the sources that
# apt knows with these options of debian_apt.
newest_samba() {
    local release=$1 suite=$2 versions newest
    shift 2
    versions=$(apt-cache "$@" showsrc --only-source samba | sed -n 's/^Version: //p' | sort -Vu)
    newest=$(grep -E "^([0-9]+:)?${release//./\\.}\." <<<"$versions" | tail -n 1)
    [ -n "$newest" ] && echo "$newest" && return 0
    echo "$suite has Samba ${versions//$'\n'/, }, but the patches are for $release" >&2
    return 1
}

# Prints the names of the patches in the directory of a series.
patches_of() {
    sed -e 's/#.*//' -e '/^ *$/d' "$1/series"
}

# Shows waf's progress: in place on a terminal, otherwise every 15 seconds.
show_progress() {
    local line next=$((SECONDS + 15)) counted='^\[ *([0-9]+)/([0-9]+)\]'
    while IFS= read -r line; do
        [[ $line =~ $counted ]] || continue
        if [ -t 1 ]; then
            printf '\r   %s of %s ' "${BASH_REMATCH[1]}" "${BASH_REMATCH[2]}"
        elif [ "$SECONDS" -ge "$next" ]; then
            printf '   %s of %s\n' "${BASH_REMATCH[1]}" "${BASH_REMATCH[2]}"
            next=$((SECONDS + 15))
        fi
    done
    [ ! -t 1 ] || printf '\r%30s\r' ''
}

# new_root DIRECTORY SUITE PACKAGES WORK: makes a fresh Debian in a directory, with these packages (with commas between
# them). Its apt uses the mirrors that this machine uses. The directory WORK gets apt's lists and the log.
new_root() {
    apt_need mmdebstrap
    debian_apt "$4/apt" "$2" deb
    logged "$4/root.log" mmdebstrap --mode=root --variant=minbase --include="$3" "$2" "$1" "$4/apt/sources.list"
}

# in_root DIRECTORY COMMAND...: runs a command in such a Debian, whose processes end with the command.
in_root() {
    local root=$1
    shift
    unshare --mount --mount-proc="$root/proc" --pid --fork --ipc --kill-child chroot "$root" \
        env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive "$@"
}
