#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""In the guest: runs a mixed load of the kernel's client for a time, and checks that the server's memory, file
descriptors and registrations do not grow. Takes the options of client.py, and --minutes."""

import os
import pathlib
import random
import sys
import time

import client
import files
import guest

MIB = 1 << 20
# How often to look at the memory and descriptors of the processes, in seconds.
INTERVAL = 30
# Every load ends a round within this many seconds, even on a slow machine.
STANDSTILL = 600


def process(pid):
    """Returns the KiB of anonymous memory, and the number of descriptors."""
    anonymous = next(line for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(anonymous.split()[1]), len(os.listdir(f"/proc/{pid}/fd"))


def sample(server):
    status = server.status()
    worker = max((p for p in status["processes"] if p["role"] == "worker"), key=lambda p: p["memory"])["pid"]
    named = {"smbdirectd": server.processes["smbdirectd"].pid, "smbd": server.processes["smbd"].pid, "worker": worker}
    out = {"at": round(time.monotonic()), "registrations": status["totals"]["registrations"],
           "device_memory": status["totals"]["memory"], "connections": status["totals"]["connections"],
           "guest_kib": int(guest.run("awk", "/^Active.anon|^Inactive.anon|^SUnreclaim|^KernelStack/ { n += $2 } END { print n }",
                                      "/proc/meminfo")),
           "rdma_bytes": sum(c["rdma_read_bytes"] + c["rdma_write_bytes"] for c in status["connections"])}
    for name, pid in named.items():
        out[f"{name}_kib"], out[f"{name}_descriptors"] = process(pid)
    print("  ", out, flush=True)
    return out


def loads(checks, mounted):
    """The load: large and small, direct and buffered, on the mount that stays and on new ones."""
    chance = random.Random(1)

    def large(number):
        length = chance.choice([1 * MIB, 5 * MIB + 77, 32 * MIB])
        files.size(mounted, checks.behind, length, number, number % 2 == 1)

    def odd(number):
        files.odd_offsets(mounted, checks.behind, True, MIB + 1, 40)

    def small(number):
        for name in range(50):
            (mounted / f"small-{name}").write_bytes(b"%d" % number * name)
        for name in range(50):
            assert (mounted / f"small-{name}").read_bytes() == b"%d" % number * name
            (mounted / f"small-{name}").unlink()

    def come_and_go(number):
        way = random.choice(list(client.WAYS.values()))
        with checks.mount(*way, where="/mnt/passing") as passing:
            files.write(passing / "passing", number, 2 * MIB + 1, False)
            files.compare(passing / "passing", number, 2 * MIB + 1)
            os.truncate(passing / "passing", 100)

    def verified(_):
        files.verify(mounted, 8)

    return {"files of MiBs": guest.Load(large, 1), "any offset": guest.Load(odd, 2), "small files": guest.Load(small, 2),
            "clients that come and go": guest.Load(come_and_go, 5), "fio": guest.Load(verified, 5)}


def main():
    parser = client.arguments()
    parser.add_argument("--minutes", type=float, default=60, help="how long (60)")
    options = parser.parse_args()
    kernel = guest.Kernel()
    guest.add_rdma("rxe" if options.fabric == "rxe" else "siw")
    server = client.Server(options)
    report = guest.Report(f"{options.minutes:g} minutes of mixed load, {options.fabric}", "", lambda: print(guest.debug_data()),
                          options.minutes * 60 + 900)
    try:
        server.start()
        checks = client.Client(options, server, report, kernel)
        samples = []
        with checks.mount() as mounted:
            running = loads(checks, mounted)
            report.check("the load goes on", go_on, running, lambda: samples.append(sample(server)), options.minutes * 60)
            for name, load in running.items():
                report.fact(f"rounds of {name}", len(load.done))
        report.facts["samples"] = samples
        report.check("nothing grows", flat, report, samples)
        report.check("the kernel has no complaints", kernel.check)
        server.stop()
    finally:
        guest.smbd_server.end_children()
        guest.run("cp", "-r", server.root / "log", guest.OUTSIDE / "server-log", check=False)
        report.write()


def go_on(running, look, seconds):
    """Takes samples until the time is over. Until then each load must continue without an error."""
    end = time.monotonic() + seconds
    moved = {name: (time.monotonic(), 0) for name in running}
    while time.monotonic() < end:
        time.sleep(INTERVAL)
        look()
        for name, load in running.items():
            load.collect()
            assert not load.errors, f"{name}: {load.errors}"
            if len(load.done) > moved[name][1]:
                moved[name] = time.monotonic(), len(load.done)
            assert time.monotonic() - moved[name][0] < STANDSTILL, f"{name} stands still after {len(load.done)} rounds"
    for name, load in running.items():
        load.stop(300)
        assert not load.errors, f"{name}: {load.errors}"


def flat(report, samples):
    """Compares the second quarter with the last one. During the first quarter, things that are kept are still being
    created.

    Files and mounts come and go with the load, and so do descriptors and registrations. So this compares the lowest
    numbers of descriptors and registrations, which grow with each one that is left behind, and the largest amounts of
    memory.
    """
    quarter = len(samples) // 4
    early, late = samples[quarter:2 * quarter], samples[-quarter:]
    for name in sorted(samples[0]):
        memory = name.endswith("_kib")
        if memory or name.endswith("_descriptors") or name == "registrations":
            choose = max if memory else min
            before, after = (choose(sample[name] for sample in part) for part in (early, late))
            report.fact(name, f"{before} -> {after}")
            assert after <= before + (1024 + before // 20 if memory else 0), f"{name} grew from {before} to {after}"


if __name__ == "__main__":
    sys.exit(main())
