#!/bin/bash
# make demo: a file goes to a share and back by RDMA, on this machine alone. See README.md.
#
# Sets up what is missing, starts smbdirectd and the patched smbd on free ports of loopback in a directory of their own,
# and runs instruments/examples/demo.rs, the client. All of it is gone afterwards, with KEEP=1 when it is told to.
#
# KEEP=1            leave the server running, and say how to reach and how to stop it
# DEMO_MIB=         the size of the file (1024)
# DEMO_DIR=         where the server's directory is made, on the disk that takes the file (/tmp)
# SMBDIRECT_SAMBA=  a Samba build tree, instead of the one that tools/samba.sh builds
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/lib.sh

share=demo
password=demo-1word
mib=${DEMO_MIB:-1024}
# With SMB Direct by itself smbd reaches its device in seconds.
patience=30

die() {
    printf 'demo: %s\n' "$*" >&2
    exit 1
}

say() {
    printf -- '-- %s\n' "$*"
}

set_up() {
    command -v cargo >/dev/null || die "no cargo: Rust $(minimum_rust) or newer is needed"
    if [ -z "${SMBDIRECT_SAMBA:-}" ]; then
        tools/samba.sh build
        SMBDIRECT_SAMBA=$(tools/samba.sh path)
    fi
    samba=$SMBDIRECT_SAMBA/bin
    [ -x "$samba/smbd" ] || die "no smbd in $samba"
    say "building smbdirectd, smbdirectctl and the client"
    cargo build --release --locked --quiet --workspace --bins --example demo
    programs=$(cargo metadata --locked --no-deps --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')/release
}

free_port() {
    local port
    while :; do
        port=$((RANDOM % 20000 + 20000))
        # Who connects to nobody has found a port.
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
    done
    echo "$port"
}

# wait_for DESCRIPTION LOG COMMAND...
wait_for() {
    local what=$1 log=$2 end=$((SECONDS + patience))
    shift 2
    until "$@" 2>/dev/null; do
        if [ "$SECONDS" -ge "$end" ]; then
            tail -n 20 "$log" >&2
            die "$what: not within $patience s; the end of its log is above"
        fi
        sleep 0.1
    done
}

listens() {
    (exec 3<>"/dev/tcp/127.0.0.1/$1")
}

has_listener() {
    "$programs/smbdirectctl" status --json --control "$dir/control" | grep -q '"role":"listener"'
}

configuration() {
    cat <<END
[global]
server role = standalone
disable netbios = yes
interfaces = lo
bind interfaces only = yes
smb ports = $tcp_port
smb direct = yes
smb direct device = $dir/control
server multi channel support = yes
passdb backend = smbpasswd
smb passwd file = $dir/private/smbpasswd
private dir = $dir/private
lock directory = $dir/lock
state directory = $dir/state
cache directory = $dir/cache
pid directory = $dir/pid
ncalrpc dir = $dir/ncalrpc
log file = $dir/log/log.smbd
max log size = 0
load printers = no
printing = bsd
disable spoolss = yes
[$share]
path = $dir/files
read only = no
END
}

start_server() {
    local free
    dir=$(mktemp -d "${DEMO_DIR:-/tmp}/smbdirect-demo.XXXXXX")
    free=$(($(df -Pk "$dir" | awk 'NR == 2 { print $4 }') / 1024))
    [ "$free" -gt $((mib + 100)) ] || die "$dir has room for $free MiB, and the file has $mib: DEMO_DIR=<another place>"
    mkdir "$dir"/{files,private,lock,state,cache,pid,ncalrpc,log}
    # The user has to get there.
    chmod 755 "$dir"
    chmod 777 "$dir/files"
    rdma_port=$(free_port)
    tcp_port=$(free_port)
    configuration >"$dir/smb.conf"
    printf '%s\n%s\n' "$password" "$password" |
        "$samba/smbpasswd" -c "$dir/smb.conf" -s -a "$user" >"$dir/log/smbpasswd" 2>&1 ||
        die "smbpasswd -a $user: $(cat "$dir/log/smbpasswd")"

    cat >"$dir/smbdirectd.toml" <<END
control = "$dir/control"
listen = ["127.0.0.1:$rdma_port"]
END
    "$programs/smbdirectd" --config "$dir/smbdirectd.toml" >"$dir/log/smbdirectd" 2>&1 </dev/null &
    broker=$!
    wait_for smbdirectd "$dir/log/smbdirectd" listens "$rdma_port"
    # It signals its process group when it ends, so it has one of its own.
    setsid "$samba/smbd" --foreground --no-process-group -s "$dir/smb.conf" -l "$dir/log" >"$dir/log/stdout" 2>&1 </dev/null &
    smbd=$!
    wait_for smbd "$dir/log/log.smbd" listens "$tcp_port"
    # It refuses a share until its process for change notifies is there.
    wait_for "smbd's notifyd" "$dir/log/log.smbd" grep -aq notify-daemon "$dir/lock/names.tdb"
    wait_for "smbd attaches to smbdirectd" "$dir/log/log.smbd" has_listener
    say "smbd (process $smbd) at 127.0.0.1:$tcp_port, smbdirectd (process $broker) at 127.0.0.1:$rdma_port, in $dir"
}

end_process() {
    local end=$((SECONDS + 10))
    kill "$1" 2>/dev/null || return 0
    while kill -0 "$1" 2>/dev/null && [ "$SECONDS" -lt "$end" ]; do
        sleep 0.1
    done
    kill -KILL "$1" 2>/dev/null || true
}

clean_up() {
    local status=$?
    trap - EXIT INT TERM
    [ -z "$smbd" ] || end_process "$smbd"
    [ -z "$broker" ] || end_process "$broker"
    if [ "$status" != 0 ] && [ -n "$dir" ]; then
        tail -n 5 "$dir"/log/{log.smbd,smbdirectd} >&2 || true
    fi
    [ -z "$dir" ] || rm -rf "$dir"
    exit "$status"
}

keep() {
    trap - EXIT
    cat >"$dir/stop" <<END
#!/bin/sh
kill $smbd $broker
# smbd has started it for smbclient, and leaves it.
[ ! -e "$dir/pid/samba-dcerpcd.pid" ] || kill "\$(cat "$dir/pid/samba-dcerpcd.pid")"
rm -rf "$dir"
END
    chmod 755 "$dir/stop"
    cat <<END

It goes on running. To use it:
    TCP         smbclient -p $tcp_port //127.0.0.1/$share -U $user%$password
    SMB Direct  $programs/smbdirectctl bridge 127.0.0.1:$rdma_port --listen 127.0.0.1:4450
                smbclient -p 4450 //127.0.0.1/$share -U $user%$password
    measure     $programs/smbdirectctl bench //127.0.0.1:$tcp_port/$share -U $user%$password --address 127.0.0.1:$rdma_port
    look        $programs/smbdirectctl status --control $dir/control
smbclient is also in $samba. To stop it and remove all that it wrote:
    $dir/stop
END
}

dir='' smbd='' broker=''
[[ $mib =~ ^[1-9][0-9]*$ ]] || die "DEMO_MIB=$mib: a number of MiB"
# One that every Debian has and whom permissions bind; who is not root can be nobody else.
user=daemon
[ "$(id -u)" = 0 ] || user=$(id -un)
set_up
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
mkdir -p target/demo
start_server
"$programs/examples/demo" --tcp "127.0.0.1:$tcp_port" --rdma-port "$rdma_port" --control "$dir/control" \
    --broker "$broker" --share "127.0.0.1/$share" --files "$dir/files" --user "$user" --password "$password" \
    --mib "$mib" --report target/demo/report.json
[ "${KEEP:-0}" = 0 ] || keep
