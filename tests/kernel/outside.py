#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""On the host: runs smbd and smbdirectd here, and the kernel's client in the guest, over QEMU's user network.

The client knows only port 5445, so everything runs in a network namespace in which that port is free.
"""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import threading

import files

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "tools"))

from smbd_server import Server, end_children, end_in_order  # noqa: E402

MIB = 1 << 20


def own_network():
    """Restarts this program in a network namespace that has only lo."""
    if "SMBDIRECT_OWN_NETWORK" not in os.environ:
        os.environ["SMBDIRECT_OWN_NETWORK"] = "1"
        os.execvp("unshare", ["unshare", "--net", sys.executable, *sys.argv])
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


class Watch:
    """The highest counters that any connection has been seen to have."""

    def __init__(self, server):
        self.server = server
        self.most = {"rdma_read_bytes": 0, "rdma_write_bytes": 0, "invalidations_out": 0}
        self.ending = threading.Event()
        self.thread = threading.Thread(target=self.watch, daemon=True)
        self.thread.start()

    def watch(self):
        while not self.ending.wait(0.5):
            for connection in (self.server.status(check=False) or {"connections": []})["connections"]:
                self.most = {name: max(value, connection[name]) for name, value in self.most.items()}

    def stop(self):
        self.ending.set()
        self.thread.join()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--samba", type=pathlib.Path, required=True, help="Samba's build tree")
    parser.add_argument("--programs", type=pathlib.Path, required=True, help="the directory that has smbdirectd and smbdirectctl")
    parser.add_argument("--largest", type=int, default=64, help="size of the largest file in MiB (64)")
    options = parser.parse_args()
    own_network()
    end_in_order()
    root = pathlib.Path(tempfile.mkdtemp(prefix="smbdirect-outside-"))
    root.chmod(0o755)
    server = Server(root / "server", options.samba, options.programs, {"share": []}, ["interfaces = lo"],
                    listen=["127.0.0.1:5445"])
    try:
        server.start()
        watch = Watch(server)
        guest = subprocess.run([HERE / "guest.sh", "run", HERE / "client.py", "outside", "--largest", str(options.largest)])
        watch.stop()
        if guest.returncode:
            sys.exit(f"outside: the guest ended with {guest.returncode}; the server's logs are in {root}/server/log")
        # The server must have the data that the client wrote and read back.
        for seed, size in enumerate(files.SIZES, 1):
            for how in ("buffered", "direct"):
                if size <= options.largest * MIB:
                    files.compare(server.path("share") / f"size-{size}-{how}", seed, size)
        assert all(watch.most.values()), f"no RDMA, or no remote invalidation: {watch.most}"
        print(f"-- the server has what the client wrote; a connection carried {watch.most}")
        server.stop()
        shutil.rmtree(root)
    finally:
        end_children()


if __name__ == "__main__":
    main()
