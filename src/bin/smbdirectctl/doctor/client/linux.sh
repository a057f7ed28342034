#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Gathers what decides on a Linux client whether SMB Direct is used, and prints it as JSON.
# Written by smbdirectctl @VERSION@: smbdirectctl doctor --client-script linux > check.sh
#
# Mount the share, and run this, preferably as root:
#     sh check.sh 10.0.0.1 > report.json
# Then let the server judge the report:
#     smbdirectctl doctor --client-report report.json
#
# The script changes nothing. With the address of the server it also tries to connect to TCP ports 445 and 5445 there
# (if bash and timeout are installed), and sends nothing.
# The report has the names of this machine, its network interfaces and shares, and IP addresses; no users or passwords.

server=${1:-}
PATH=$PATH:/usr/sbin:/sbin
LC_ALL=C
export PATH LC_ALL
unread=

# Prints standard input as the content of a JSON string.
escape() {
    tr '\t\n' '  ' | tr -cd '\040-\176' | cut -c 1-400 | sed -e 's/\\/\\\\/g' -e 's/"/\\"/g' -e 's/ *$//'
}

# Prints a JSON string.
text() {
    printf '"%s"' "$(printf '%s' "$1" | escape)"
}

# Prints the lines of standard input as a JSON array of strings, at most 64.
list() {
    separator=
    printf '['
    sed 64q | while IFS= read -r line; do
        [ -n "$line" ] || continue
        printf '%s' "$separator"
        text "$line"
        separator=', '
    done
    printf ']'
}

# Notes what could not be read.
not_read() {
    unread="$unread$1
"
}

has() {
    command -v "$1" >/dev/null 2>&1
}

# Prints the first line of a file.
line() {
    [ -r "$1" ] && sed 1q "$1" 2>/dev/null
}

# Prints y, m or n for an option of the kernel; nothing if its configuration cannot be read.
option() {
    if [ -z "$config" ]; then return; fi
    value=$(printf '%s\n' "$config" | sed -n "s/^$1=\\([ym]\\)\$/\\1/p" | sed 1q)
    printf '%s' "${value:-n}"
}

# Prints the state of a module: loaded, builtin, available or absent; nothing if that cannot be found out.
module() {
    if [ -d "/sys/module/$1" ]; then
        printf loaded
    elif has modinfo; then
        if modinfo "$1" 2>/dev/null | grep -q '^filename: *(builtin)'; then
            printf builtin
        elif modinfo "$1" >/dev/null 2>&1; then
            printf available
        else
            printf absent
        fi
    fi
}

# Prints whether a TCP port can be connected to: open, refused, silent if nothing answers within 5 seconds, or
# unresolved if the server's name has no address.
# shellcheck disable=SC2016
port() {
    if ! has bash || ! has timeout; then
        return
    fi
    said=$(timeout 5 bash -c 'exec 3<>"/dev/tcp/$0/$1"' "$server" "$1" 2>&1)
    case $?,$said in
    0,*) printf open ;;
    # BusyBox's timeout ends with the exit status of the program that it ends: 128 + SIGTERM.
    124,* | 143,*) printf silent ;;
    # The words for errors of getaddrinfo in glibc and in musl.
    *'ame or service not known'* | *'name resolution'* | *'o address associated'* | *'ame does not resolve'* | \
        *'ry again'*) printf unresolved ;;
    *) printf refused ;;
    esac
}

kernel=$(uname -r)
config=
for file in /proc/config.gz "/boot/config-$kernel" "/lib/modules/$kernel/config" "/usr/lib/modules/$kernel/config"; do
    [ -r "$file" ] || continue
    case $file in
    *.gz) config=$(gzip -dc "$file" 2>/dev/null | grep -E '^CONFIG_(CIFS|INFINIBAND|RDMA|SMBDIRECT)') ;;
    *) config=$(grep -E '^CONFIG_(CIFS|INFINIBAND|RDMA|SMBDIRECT)' "$file") ;;
    esac
    # An empty answer also means that the options are off, but the file was read.
    config="$config
CONFIG_READ=y"
    break
done
[ -n "$config" ] || not_read "the configuration of the kernel: neither /proc/config.gz nor /boot/config-$kernel"

# Prints the RDMA devices.
devices() {
    separator=
    links=
    has rdma && links=$(rdma link show 2>/dev/null)
    printf '['
    for path in /sys/class/infiniband/*/ports/*; do
        [ -d "$path" ] || continue
        device=${path%/ports/*}
        name=${device##*/}
        number=${path##*/}
        interface=$(line "$path/gid_attrs/ndevs/0")
        if [ -z "$interface" ]; then
            interface=$(printf '%s\n' "$links" | sed -n "s|^link $name/$number .*netdev \\([^ ]*\\).*|\\1|p")
        fi
        printf '%s{"name": ' "$separator"
        text "$name"
        printf ', "port": '
        text "$number"
        printf ', "state": '
        text "$(line "$path/state")"
        printf ', "link_layer": '
        text "$(line "$path/link_layer")"
        printf ', "node_type": '
        text "$(line "$device/node_type")"
        printf ', "interface": '
        text "$interface"
        printf '}'
        separator=', '
    done
    printf ']'
}

# The options of a mount that the report has.
OPTIONS='rdma|vers|sec|sign|seal|multichannel|max_channels|rsize|wsize|addr|port|cache'

# Prints the mounted shares, with those of their options that matter for SMB Direct, and the interfaces that lead to
# their servers.
mounts() {
    separator=
    printf '['
    while read -r source _ kind options _; do
        case $kind in
        cifs | smb3) ;;
        *) continue ;;
        esac
        options=$(printf '%s\n' "$options" | tr ',' '\n')
        wanted=$(printf '%s\n' "$options" | grep -E "^($OPTIONS)(=|\$)" | tr '\n' ',')
        address=$(printf '%s\n' "$options" | sed -n 's/^addr=//p')
        interface=
        if [ -n "$address" ] && has ip; then
            interface=$(ip -o route get "${address%\%*}" 2>/dev/null | sed -n 's/.* dev \([^ ]*\).*/\1/p')
        fi
        printf '%s{"source": ' "$separator"
        text "$source"
        printf ', "options": '
        text "${wanted%,}"
        printf ', "address": '
        text "$address"
        printf ', "interface": '
        text "$interface"
        printf '}'
        separator=', '
    done </proc/mounts
    printf ']'
}

# Prints the addresses of this machine.
addresses() {
    if has ip; then
        ip -o addr show scope global 2>/dev/null | sed -n 's|.* inet6\{0,1\} \([^/ ]*\).*|\1|p'
    fi
}

has ip || not_read 'addresses and routes: ip is not installed'
has modinfo || not_read 'modules that are not loaded: modinfo is not installed'

debug_data=
if [ -r /proc/fs/cifs/DebugData ]; then
    debug_data=$(grep -E '^Features:|SMBDirect|RDMA' /proc/fs/cifs/DebugData 2>/dev/null)
    [ -n "$debug_data" ] || not_read '/proc/fs/cifs/DebugData: only root can read it'
elif [ -d /proc/fs/cifs ]; then
    not_read '/proc/fs/cifs/DebugData: only root can read it'
fi

distribution=
if [ -r /etc/os-release ]; then
    distribution=$(sed -n 's/^PRETTY_NAME="\{0,1\}\([^"]*\)"\{0,1\}$/\1/p' /etc/os-release)
fi

privileged=false
[ "$(id -u)" = 0 ] && privileged=true

printf '{\n"smbdirect_client_report": 1,\n"script": "@VERSION@",\n"system": "linux",\n"time": '
text "$(date -u +%Y-%m-%dT%H:%M:%SZ)"
printf ',\n"host": '
text "$(uname -n)"
printf ',\n"privileged": %s,\n"name": ' "$privileged"
text "$distribution"
printf ',\n"kernel": '
text "$kernel"
printf ',\n"smb_direct": '
text "$(option CONFIG_CIFS_SMB_DIRECT)"
printf ',\n"cifs": '
case $(option CONFIG_CIFS) in
y) text builtin ;;
*) text "$(module cifs)" ;;
esac
printf ',\n"modules": '
for name in cifs rdma_cm siw rdma_rxe mlx4_ib mlx5_ib irdma bnxt_re qedr cxgb4 iw_cxgb4 erdma mana_ib ib_ipoib; do
    [ -d "/sys/module/$name" ] && echo "$name"
done | list
printf ',\n"devices": '
devices
printf ',\n"mounts": '
mounts
printf ',\n"addresses": '
addresses | list
printf ',\n"debug_data": '
printf '%s\n' "$debug_data" | list
if [ -n "$server" ]; then
    tcp_445=$(port 445)
    tcp_5445=$(port 5445)
    [ -n "$tcp_5445" ] || not_read 'the ports of the server: bash or timeout is not installed'
    printf ',\n"server": {"address": '
    text "$server"
    printf ', "tcp_445": "%s", "tcp_5445": "%s"}' "$tcp_445" "$tcp_5445"
fi
printf ',\n"unread": '
printf '%s' "$unread" | list
printf '\n}\n'
