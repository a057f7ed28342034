#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""In the guest: runs the same fio jobs of the kernel's client against smbd and ksmbd, over the same siw, in one boot.

    compare.py            smbd with smbdirectd on its own iWARP, and ksmbd
    compare.py --verbs    also smbd with smbdirectd on verbs

The servers take turns, so that other work of the machine affects all of them alike. The table has the medians, the
ratios of smbd's throughput to ksmbd's, and the cost of a request in the whole guest, client and server together:
context switches, and processor time in user space and in the kernel.
"""

import json
import os
import pathlib
import statistics
import sys

import client
import guest

# The size and the depth of each job.
JOBS = [("1M", 1), ("1M", 8), ("64k", 1), ("4k", 1)]


def work():
    """Returns context switches, and microseconds in user space and in the kernel, since the guest started."""
    said = {name: values for name, *values in map(str.split, pathlib.Path("/proc/stat").read_text().splitlines())}
    user, nice, system, _, _, irq, softirq, *_ = (int(value) * 1_000_000 / os.sysconf("SC_CLK_TCK") for value in said["cpu"])
    return int(said["ctxt"][0]), user + nice, system + irq + softirq


def fio(mounted, name, operation, size, depth, seconds):
    """Returns MiB per second, the median latency in microseconds, and the work per request."""
    before = work()
    said = guest.run("fio", "--output-format=json", f"--name={name}", f"--filename={mounted}/{name}", f"--rw={operation}",
                     f"--bs={size}", f"--iodepth={depth}", "--ioengine=libaio", "--direct=1", "--size=64M", "--fallocate=none",
                     "--time_based", f"--runtime={seconds}", "--create_on_open=1", timeout=300)
    done = [after - value for after, value in zip(work(), before)]
    job = json.loads(said[said.index("{"):])["jobs"][0][operation]
    switches, user, system = (value / job["total_ios"] for value in done)
    return {"mib_per_second": job["bw_bytes"] / (1 << 20), "p50_microseconds": job["clat_ns"]["percentile"]["50.000000"] / 1000,
            "switches": switches, "user_microseconds": user, "system_microseconds": system}


def measure(name, server, options, turn, results):
    server.start()
    try:
        with guest.Mount("/mnt/cifs", guest.ADDRESS["siw"], "share", server.user, "vers=3.1.1,nosharesock,cache=none") as mounted:
            for size, depth in JOBS:
                # In Linux 6.12, ksmbd hangs when a client overwrites a file that an earlier mount wrote.
                file = f"{name}-{turn}-{size}-{depth}"
                for operation in ("write", "read"):
                    if operation == "write":
                        fio(mounted, file, operation, "1M", 1, 1)
                    value = fio(mounted, file, operation, size, depth, options.seconds)
                    results.setdefault((operation, size, depth), {}).setdefault(name, []).append(value)
                (mounted / file).unlink()
    finally:
        server.stop()


def table(results, names):
    print(f"\n{'':12}" + "".join(f"{name:>45}" for name in names) + "   ratio of MiB/s to ksmbd")
    print(f"{'':12}" + f"{'MiB/s':>10}{'p50 us':>8}{'switches':>9}{'user us':>9}{'sys us':>9}" * len(names))
    rows = []
    for (operation, size, depth), values in results.items():
        medians = {name: {what: statistics.median(one[what] for one in values[name]) for what in values[name][0]} for name in names}
        ratios = {name: medians[name]["mib_per_second"] / medians["ksmbd"]["mib_per_second"] for name in names if name != "ksmbd"}
        rows.append({"operation": operation, "size": size, "depth": depth, "servers": medians, "ratio": ratios})
        print(f"{operation:6}{size:>4}x{depth}"
              + "".join(f"{m['mib_per_second']:10.1f}{m['p50_microseconds']:8.0f}{m['switches']:9.1f}{m['user_microseconds']:9.0f}"
                        f"{m['system_microseconds']:9.0f}" for m in medians.values())
              + "   " + "  ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items()), flush=True)
    return rows


def main():
    parser = client.arguments()
    parser.add_argument("--verbs", action="store_true", help="also run smbdirectd on verbs")
    parser.add_argument("--turns", type=int, default=3, help="number of turns of each server (3)")
    parser.add_argument("--seconds", type=int, default=3, help="duration of each job in seconds (3)")
    options = parser.parse_args(["software", *sys.argv[1:]])
    guest.add_rdma("siw")
    names = ["software", *(["siw"] if options.verbs else []), "ksmbd"]
    results = {}
    try:
        for turn in range(options.turns):
            for name in names:
                print(f"-- {name}, turn {turn + 1} of {options.turns}", flush=True)
                options.fabric = name
                server = client.Ksmbd(options) if name == "ksmbd" else client.Server(options)
                measure(name, server, options, turn, results)
        rows = table(results, names)
        (guest.OUTSIDE / "compare.json").write_text(json.dumps(rows, indent=1) + "\n")
    finally:
        guest.smbd_server.end_children()


if __name__ == "__main__":
    main()
