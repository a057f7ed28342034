#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Runs in a fresh Debian. tools/deb.sh has put the packages and a program in C there, for installed|upgraded|purged;
# tools/deb_samba.sh a repository of packages, for samba_installed|samba_served|samba_held|samba_purged.
set -euo pipefail
cd /root

version() {
    dpkg-query -W -f '${Version}' "$1"
}

check_files() {
    # Check that these are the packages that are installed now.
    dpkg --verify smbdirectd libsmbdirect0 libsmbdirect-dev
    test "$(stat -c %U:%G:%a /etc/smbdirect/smbdirectd.toml)" = root:root:644
    getent passwd smbdirect >/dev/null
}

# The links of the installed README.md to other pages have to lead to files.
check_docs() {
    local doc=/usr/share/doc/smbdirectd page pages
    mapfile -t pages < <(grep -o '(docs/[a-z-]*\.md' "$doc/README.md" | tr -d '(' | sort -u)
    [ ${#pages[@]} -gt 5 ]
    for page in "${pages[@]}" docs/troubleshooting.md; do
        test -s "$doc/$page" || { echo "$doc/$page is missing"; return 1; }
    done
}

# start_daemon OPTION...: runs the daemon as its unit does, because there is no systemd here, and sets daemon to its
# process.
start_daemon() {
    install -d -o smbdirect -g smbdirect /run/smbdirect
    setpriv --reuid=smbdirect --regid=smbdirect --clear-groups --inh-caps=-all --bounding-set=-all \
        smbdirectd "$@" 2>/root/smbdirectd.log &
    daemon=$!
    wait_for smbdirectctl status
}

# Runs the daemon, and a program that was built with the -dev package.
check_programs() {
    local daemon program flags
    smbdirectd --version
    smbdirectd --check-config >/dev/null
    smbdirectctl bench --help >/dev/null
    start_daemon --listen 127.0.0.1:0

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
    for _ in {1..100}; do
        "$@" >/dev/null 2>&1 && return 0
        sleep 0.1
    done
    echo "not within 10 s: $*"
    cat /root/*.log
    return 1
}

installed() {
    dpkg --install 1/*.deb
    [[ $(version smbdirectd) == *-1 ]]
    check_files
    check_docs
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

# ---- Debian's samba with SMB Direct

fail() {
    echo "$*" >&2
    exit 1
}

apt() {
    apt-get -q -o APT::Color=0 "$@"
}

# Installs samba-smbdirect as an administrator does, from the repository.
samba_installed() {
    local package
    # Nothing may be started: there is no systemd here.
    printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
    chmod 755 /usr/sbin/policy-rc.d
    echo "deb [trusted=yes] copy:/srv/repository ./" >/etc/apt/sources.list.d/smbdirect.list
    apt update >/root/apt.log
    apt install -y samba-smbdirect smbclient >>/root/apt.log 2>&1 || { tail -n 40 /root/apt.log; exit 1; }
    for package in samba samba-libs samba-common samba-common-bin python3-samba winbind smbclient libldb2; do
        [[ $(version "$package") == *+0smbdirect* ]] || fail "$package is $(version "$package")"
    done
    dpkg --verify samba-smbdirect samba smbdirectd libsmbdirect0
    test -z "$(apt-get check 2>&1 | grep -i '^E:')"
    ldd "$(echo /usr/lib/*/samba/libsmbd-base-private-samba.so.0)" | grep -q 'libsmbdirect\.so\.0 => /'
    [[ $(smbd -b) == *WITH_SMBDIRECT* ]] || fail "smbd -b does not show WITH_SMBDIRECT"
    [[ $(smbd --version) == *+0smbdirect* ]] || fail "smbd is $(smbd --version)"
}

# Prints how many bytes the device has moved by RDMA.
bytes_by_rdma() {
    smbdirectctl status --json | jq '[.carried[] | .rdma_read_bytes + .rdma_write_bytes] | add // 0'
}

# Serves a share, in a network of this test's own, and uses it over SMB Direct.
samba_served() {
    local daemon smbd bridge before after
    ip link set lo up
    ip link add net0 type veth peer name net1
    ip address add 192.0.2.1/24 dev net0
    ip link set net0 up
    ip link set net1 up
    # The lines of README.md, "Serve a share".
    sed -i 's/^\[global\]$/&\n   smb direct = yes/' /etc/samba/smb.conf
    install -d -m 1777 /srv/share
    printf '[share]\n   path = /srv/share\n   read only = no\n' >>/etc/samba/smb.conf
    useradd --no-create-home tester
    printf 'pass-1word\npass-1word\n' | smbpasswd -s -a tester

    testparm --suppress-prompt >/root/testparm 2>/root/testparm.log
    grep -q 'smb direct = Yes' /root/testparm
    ! grep -i -e unknown -e ignoring -e warning -e error /root/testparm.log || fail "testparm complains: see above"

    start_daemon
    # smbd signals its process group when it ends, so it must not have that of this test.
    setsid smbd --foreground --no-process-group >/root/smbd.log 2>&1 &
    smbd=$!
    wait_for listener
    smbdirectctl status

    before=$(bytes_by_rdma)
    smbdirectctl bench --user tester%pass-1word --transport smbdirect --channel 1 --size 1M --depth 8 --rounds 1 \
        --bytes 64M --file-size 64M --verify //192.0.2.1/share
    after=$(bytes_by_rdma)
    [ $((after - before)) -ge $((128 << 20)) ] || fail "only $((after - before)) bytes went by RDMA"
    echo "$((after - before)) bytes went by RDMA"

    # A client that speaks only TCP, through the bridge.
    smbdirectctl bridge 192.0.2.1 >/root/bridge.log 2>&1 &
    bridge=$!
    wait_for grep -q listening /root/bridge.log
    head -c 20000000 /dev/urandom >/root/sent
    smbclient -p 4450 -U tester%pass-1word //127.0.0.1/share -c 'put /root/sent file; get file /root/received' >/dev/null
    cmp /root/sent /root/received
    cmp /root/sent /srv/share/file

    smbdirectctl doctor || fail "the doctor is not content"
    kill "$bridge" "$daemon" "$smbd"
    wait "$daemon"
    wait "$bridge" "$smbd" || true
    userdel tester
    rm -rf /srv/share /root/{sent,received,testparm} /root/*.log
}

# Tells whether apt would install another samba: replaces VERB OPTION...
replaces() {
    apt -s "$@" >/root/simulation.log || fail "apt-get -s $* fails"
    grep -q '^Inst samba ' /root/simulation.log
}

# Simulates that Debian publishes a newer samba, as for a security fix.
samba_held() {
    local unpinned=(-o Dir::Etc::PreferencesParts=/nonexistent)
    mkdir /srv/newer /srv/update
    # An update that only appends to the version is newer than ours, too.
    sed -e '/^Package: .*smbdirect/,/^$/d' -e 's/, libsmbdirect0 ([^)]*)//' -e 's/+0smbdirect[0-9]*/+deb99u1/g' \
        /srv/repository/Packages >/srv/update/Packages
    echo "deb [trusted=yes] copy:/srv/update ./" >/etc/apt/sources.list.d/update.list
    apt update | tee /root/update.log
    grep -q '^samba-smbdirect: there is a newer Samba .*+deb99u1\.' /root/update.log || fail "apt update does not tell"
    dpkg --compare-versions "$(version samba)" lt "$(version samba | sed 's/+0smbdirect.*/+deb99u1/')" ||
        fail "+deb99u1 is not newer than ours"
    rm /etc/apt/sources.list.d/update.list
    # A dot sorts after a plus, so these versions are newer than ours, as +deb13u2 is.
    sed -e '/^Package: .*smbdirect/,/^$/d' -e 's/, libsmbdirect0 ([^)]*)//' -e 's/+0smbdirect[0-9]*/.9/g' \
        /srv/repository/Packages >/srv/newer/Packages
    echo "deb [trusted=yes] copy:/srv/newer ./" >/etc/apt/sources.list.d/newer.list
    apt update >/root/update.log
    grep '^samba-smbdirect: there is a newer Samba .*\.9\.' /root/update.log || fail "apt update does not tell"

    replaces upgrade && fail "apt upgrade replaces samba"
    replaces dist-upgrade && fail "apt dist-upgrade replaces samba"
    replaces install samba && fail "apt install samba replaces samba"
    ! grep '^Remv' /root/simulation.log || fail "apt removes packages"
    # The dependency holds samba even without the priorities. apt then says so.
    replaces "${unpinned[@]}" upgrade && fail "without priorities, apt upgrade replaces samba"
    [[ $(sed -n '/kept back/,/^[^ ]/p' /root/simulation.log) =~ [[:space:]]samba[[:space:]] ]] ||
        fail "apt does not say that it keeps samba"
}

samba_purged() {
    local all
    # Without the metapackage, apt does what it does with other packages. This also shows that samba_held can fail.
    dpkg --purge samba-smbdirect
    [ ! -e /etc/apt/preferences.d/samba-smbdirect.pref ]
    replaces upgrade || fail "without samba-smbdirect, apt upgrade should replace samba"
    mapfile -t all < <(dpkg-query -W -f '${Package} ${Version}\n' | sed -n '/smbdirect/ s/ .*//p')
    dpkg --purge "${all[@]}" >/root/purge.log 2>&1 || { tail -n 40 /root/purge.log; exit 1; }
    ! dpkg-query -W -f '${Package} ${Version}\n' | grep smbdirect || fail "these packages are left"
    ! find /etc /usr /var/lib /run -xdev -path /var/lib/dpkg -prune -o -path /var/lib/apt -prune -o -name '*smbdirect*' -print |
        grep -v sources.list.d || fail "these files are left"
}

"$1"
