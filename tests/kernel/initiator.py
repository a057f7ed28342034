#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""In the guest: tests our initiator, smbdirectctl bench, against ksmbd, an independent SMB Direct server.

Takes the options of client.py. Makes one connection after the other, on our iWARP and on siw; each writes and reads
large and small requests.
"""

import json
import subprocess
import sys

import client
import guest

# Enough connections to find a fault that affects only one in many: see docs/interop.md on siw as the acceptor.
CONNECTIONS = 8


def bench(options, server, fabric, *more):
    command = [options.programs / "smbdirectctl", "bench", f"//{guest.ADDRESS['siw']}/share", "-U",
               f"{server.user}%{guest.smbd_server.PASSWORD}", "--address", f"{guest.ADDRESS['siw']}:5445", "--transport",
               "smbdirect", "--fabric", fabric, "--rounds", "1", "--json", *more]
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["cases"]


def main():
    options = client.arguments().parse_args(["ksmbd", *sys.argv[1:]])
    kernel = guest.Kernel()
    guest.add_rdma("siw")
    server = client.Ksmbd(options)
    report = guest.Report("our initiator against ksmbd", options.only, lambda: None, options.limit)

    def moves(fabric, size, depth):
        cases = bench(options, server, fabric, "--size", size, "--depth", str(depth), "--seconds", "2", "--file-size", "16M")
        assert {case["operation"] for case in cases} >= {"read", "write"}, cases
        for case in cases:
            assert case["bytes"] > 0, case
            report.fact(f"{fabric}: {case['operation']} {size} x {depth}", f"{case['megabytes_per_second']:.1f} MB/s")

    def connects(fabric):
        for _ in range(CONNECTIONS):
            bench(options, server, fabric, "--size", "4K", "--operations", "write", "--seconds", "1", "--file-size", "1M")

    try:
        server.start()
        for fabric in ("software", "verbs"):
            for size, depth in (("1M", 1), ("1M", 8), ("4K", 1)):
                report.check(f"{fabric}: writes and reads {size}, {depth} at a time", moves, fabric, size, depth)
            report.check(f"{fabric}: {CONNECTIONS} connections, one after the other", connects, fabric)
        report.check("the kernel has no complaints", kernel.check)
        server.stop()
    finally:
        report.write()


if __name__ == "__main__":
    main()
