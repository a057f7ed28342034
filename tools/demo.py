#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""make demo: copies a file to a share and back by RDMA, on this machine only. See README.md.

Sets up what is missing, starts smbdirectd and the patched smbd on free ports of loopback, in a new directory, and runs
the client, instruments/examples/demo.rs. Everything is removed afterwards; with KEEP=1, only when the user asks for
that.

KEEP=1            leave the server running, and say how to use it and how to stop it
DEMO_MIB=         the size of the file (1024)
DEMO_DIR=         where to make the server's directory; the file goes onto that disk (/tmp)
SMBDIRECT_SAMBA=  a Samba build tree, instead of the one that tools/samba.sh builds
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

from smbd_server import PASSWORD, ROOT, Server, end_children, end_in_order, samba_tree, stop_rpc

SHARE = "demo"
REPORT = ROOT / "target/demo/report.json"


def set_up():
    """Returns Samba's tree, and the directory of the programs."""
    samba = os.environ.get("SMBDIRECT_SAMBA")
    if not samba and subprocess.run([ROOT / "tools/samba.sh", "build"]).returncode:
        sys.exit(1)
    print("-- building smbdirectd, smbdirectctl and the client", flush=True)
    cargo = ["cargo", "build", "--release", "--locked", "--quiet", "--workspace", "--bins", "--example", "demo"]
    if subprocess.run(cargo, cwd=ROOT).returncode:
        sys.exit(1)
    metadata = subprocess.check_output(["cargo", "metadata", "--locked", "--no-deps", "--format-version", "1"], cwd=ROOT)
    programs = pathlib.Path(json.loads(metadata)["target_directory"]) / "release"
    return samba_tree(samba and pathlib.Path(samba), programs), programs


def directory(mib):
    """Makes a directory on a disk with room for the file."""
    made = pathlib.Path(tempfile.mkdtemp(prefix="smbdirect-demo.", dir=os.environ.get("DEMO_DIR", "/tmp")))
    free = shutil.disk_usage(made).free >> 20
    if free <= mib + 100:
        made.rmdir()
        sys.exit(f"demo: {made} has room for {free} MiB, but the file has {mib}: set DEMO_DIR=<another directory>")
    # The user must be able to get to the directory.
    made.chmod(0o755)
    return made


def run_client(server, mib):
    tcp, rdma = server.ports["tcp"], server.ports["rdma"]
    broker = server.processes["smbdirectd"].pid
    print(f"-- smbd (process {server.processes['smbd'].pid}) at 127.0.0.1:{tcp}, smbdirectd (process {broker}) at "
          f"127.0.0.1:{rdma}, in {server.root}", flush=True)
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    command = [server.programs / "examples/demo", "--tcp", f"127.0.0.1:{tcp}", "--rdma-port", rdma, "--control", server.control,
               "--broker", broker, "--share", f"127.0.0.1/{SHARE}", "--files", server.path(SHARE), "--user", server.user,
               "--password", PASSWORD, "--mib", mib, "--report", REPORT]
    return subprocess.run([str(part) for part in command]).returncode


def show_logs(root):
    for name in ("log.smbd", "smbd", "smbdirectd"):
        log = root / "log" / name
        if log.exists():
            print(f"-- {log}", *log.read_text(errors="replace").splitlines()[-5:], sep="\n", file=sys.stderr)


def keep(server):
    """Leaves the server running."""
    root, tcp, rdma = server.root, server.ports["tcp"], server.ports["rdma"]
    processes = " ".join(str(process.pid) for process in server.processes.values())
    stop = root / "stop"
    stop.write_text(f"""#!/bin/sh
kill {processes}
# smbd has started this process for smbclient, and leaves it running.
[ ! -e "{root}/pid/samba-dcerpcd.pid" ] || kill "$(cat "{root}/pid/samba-dcerpcd.pid")"
rm -rf "{root}"
""")
    stop.chmod(0o755)
    ctl, login = server.programs / "smbdirectctl", f"-U {server.user}%{PASSWORD}"
    print(f"""
The server is still running. To use it:
    TCP         smbclient -p {tcp} //127.0.0.1/{SHARE} {login}
    SMB Direct  {ctl} bridge 127.0.0.1:{rdma} --listen 127.0.0.1:4450
                smbclient -p 4450 //127.0.0.1/{SHARE} {login}
    measure     {ctl} bench //127.0.0.1:{tcp}/{SHARE} {login} --address 127.0.0.1:{rdma}
    status      {ctl} status --control {server.control}
smbclient is also in {server.samba}/bin. To stop the server and remove all that it wrote:
    {stop}""")


def main():
    mib = os.environ.get("DEMO_MIB", "1024")
    if not mib.isdecimal() or int(mib) == 0:
        sys.exit(f"demo: DEMO_MIB={mib}: must be a number of MiB above 0")
    mib = int(mib)
    end_in_order()
    samba, programs = set_up()
    root = directory(mib)
    kept = False
    try:
        server = Server(root, samba, programs, {SHARE: []}, ["interfaces = lo", "bind interfaces only = yes"])
        try:
            server.start()
            status = run_client(server, mib)
        except RuntimeError as error:
            print(f"demo: {error}", file=sys.stderr)
            status = 1
        if status:
            show_logs(root)
        elif os.environ.get("KEEP", "0") != "0":
            keep(server)
            kept = True
        return status
    finally:
        if not kept:
            end_children()
            stop_rpc(root)
            shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
