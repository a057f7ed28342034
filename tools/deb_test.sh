#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Runs in a fresh Debian, into which tools/deb.sh has put the packages and a program in C: deb_test.sh installed|upgraded|purged
set -euo pipefail
cd /root
mount -t proc proc /proc

version() {
    dpkg-query -W -f '${Version}' "$1"
}

check_files() {
    # Check that these are the packages that are installed now.
    dpkg --verify smbdirectd libsmbdirect0 libsmbdirect-dev
    test "$(stat -c %U:%G:%a /etc/smbdirect/smbdirectd.toml)" = root:root:644
    getent passwd smbdirect >/dev/null
}

# Runs the daemon as its unit does, because there is no systemd here, and runs a program that was built with the -dev
# package.
check_programs() {
    local daemon program flags
    smbdirectd --version
    smbdirectd --check-config >/dev/null
    smbdirectctl bench --help >/dev/null
    install -d -o smbdirect -g smbdirect /run/smbdirect
    setpriv --reuid=smbdirect --regid=smbdirect --clear-groups --inh-caps=-all --bounding-set=-all \
        smbdirectd --listen 127.0.0.1:0 2>/root/smbdirectd.log &
    daemon=$!
    wait_for smbdirectctl status

    read -ra flags <<<"$(pkg-config --cflags --libs smbdirect)"
    gcc -Wall -Werror -o example example.c "${flags[@]}"
    ldd ./example | grep -q 'libsmbdirect\.so\.0 => /'
    ./example /run/smbdirect/control &
    program=$!
    wait_for listener
    kill -TERM "$daemon"
    wait "$daemon"
    # The program ends when the device does.
    wait "$program" || true
    rm -f example /root/smbdirectd.log
}

listener() {
    smbdirectctl status --json | grep -q '"role":"listener"'
}

wait_for() {
    local n
    for n in {1..100}; do
        "$@" >/dev/null 2>&1 && return 0
        sleep 0.1
    done
    echo "not within 10 s: $*"
    cat /root/smbdirectd.log
    return 1
}

installed() {
    dpkg --install 1/*.deb
    [[ $(version smbdirectd) == *-1 ]]
    check_files
    check_programs
    # Set two keys, as an administrator would.
    printf 'reactors = 1\nlog = "debug"\n' >/etc/smbdirect/smbdirectd.toml
}

upgraded() {
    # A changed configuration must be kept without asking.
    dpkg --install 2/*.deb
    [[ $(version smbdirectd) == *-2 && $(version libsmbdirect0) == *-2 ]]
    grep -q 'reactors = 1' /etc/smbdirect/smbdirectd.toml
    check_programs
}

purged() {
    local all
    mapfile -t all < <(dpkg-query -W -f '${Package}\n' '*smbdirect*')
    [ ${#all[@]} = 5 ] # two have debug information
    dpkg --purge "${all[@]}"
    # Debian keeps the users of packages: their files may be anywhere, and no other user may get their number.
    getent passwd smbdirect >/dev/null
}

"$1"
