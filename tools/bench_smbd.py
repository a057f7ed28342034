#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Measures the same client with the same smbd over TCP and over SMB Direct, in one run, case by case.

The share is in memory. Each case shows what the client sees (`smbdirectctl bench`), and the processor time that its
smbd and the device have used since the client filled its file. The time before that is the same for every way, so it
would weigh most for the way that moves the least. In each case TCP and SMB Direct take turns for some rounds, and
neither comes first in all of them; the table shows the median, the least and the most. The last table has the ratios of
SMB Direct to TCP, each the median of the rounds' own ratios.

With --protect, requests are signed or encrypted. SMB Direct is then measured with RDMA transforms, and also without
them, in messages.

No process runs at another priority, because that changes the results (with SCHED_FIFO a request over TCP takes up to
four times as long).
"""

import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

from smbd_server import PASSWORD, Server, add_server_options, end_children, samba_tree

# The size, the depth, and how the data goes: over TCP, or over SMB Direct with this channel.
CASES = [("1M", 1), ("1M", 8), ("64K", 1), ("64K", 8), ("4K", 1)]
WAYS = [("tcp", 0), ("smbdirect", 1)]
# Shows whether an RDMA transfer, which takes more steps than a message, is worth it at this size.
IN_MESSAGES = ("smbdirect", 0)
# The options that make the client protect its requests.
PROTECTION = {"none": [], "sign": ["--sign"], "seal": ["--seal"]}
FIGURES = ["megabytes_per_second", "latency_p50_microseconds", "smbd_seconds_per_gib", "device_seconds_per_gib",
           "client_seconds_per_gib"]
PROCESSES = FIGURES[2:]
FILE_MIB = 64
GIB = float(1 << 30)
TICK = 1.0 / os.sysconf("SC_CLK_TCK")


def times(pid, first):
    """Returns the processor seconds of a process (first = 13), or of its children that have ended (15)."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    # The first field here is the third one in proc(5).
    return (int(fields[first - 2]) + int(fields[first - 1])) * TICK


def wait_until_filled(server, client):
    """Waits until the client's file has all its memory, and returns the file's path."""
    share = server.path("bench")
    while client.poll() is None:
        for file in share.iterdir():
            if file.stat().st_blocks * 512 >= FILE_MIB << 20:
                return file
        time.sleep(0.001)
    sys.exit(f"bench: smbdirectctl bench ended with {client.returncode} before its file was filled")


def holder(file):
    """Returns the smbd that has a file open."""
    for descriptor in pathlib.Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if descriptor.readlink() == file:
                return int(descriptor.parts[2])
        except OSError:
            # The process has closed it.
            pass
    sys.exit(f"bench: no process has {file} open")


def measure(server, way, operation, size, depth, options):
    transport, channel = way
    seconds = options.seconds
    smbd, device = (server.processes[name].pid for name in ("smbd", "smbdirectd"))
    ended = times(smbd, 15)
    command = [server.programs / "smbdirectctl", "bench",
               f"//127.0.0.1:{server.ports['tcp']}/bench", "-U", f"{server.user}%{PASSWORD}",
               "--address", f"127.0.0.1:{server.ports['rdma']}", "--transport", transport, "--operations", operation,
               "--channel", channel, "--size", size, "--depth", depth, "--rounds", 1, "--seconds", seconds,
               "--file-size", f"{FILE_MIB}M", "--json", *PROTECTION[options.protect]]
    if options.protect != "none" and way == IN_MESSAGES:
        command.append("--no-transforms")
    with subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE) as client:
        file = wait_until_filled(server, client)
        before = ended + times(holder(file), 13), times(device, 13)
        try:
            output, _ = client.communicate(timeout=seconds + 120)
        except subprocess.TimeoutExpired:
            client.kill()
            raise
    if client.returncode:
        sys.exit(f"bench: smbdirectctl bench ended with {client.returncode}")
    case = json.loads(output)["cases"][0]
    # The client's smbd ends a moment after the client.
    time.sleep(0.5)
    after = times(smbd, 15), times(device, 13)
    gib = case["bytes"] / GIB
    return dict(zip(FIGURES, (case["megabytes_per_second"], case["latency_p50_microseconds"], (after[0] - before[0]) / gib,
                              (after[1] - before[1]) / gib, case["client_cpu_seconds_per_gib"])))


def measure_all(server, operation, size, depth, options):
    """Returns the figures of all rounds, for each way."""
    ways = WAYS + [IN_MESSAGES] * (size == "4K" or options.protect != "none")
    rounds = {way: [] for way in ways}
    for number in range(options.rounds):
        for way in ways if number % 2 == 0 else reversed(ways):
            rounds[way].append(measure(server, way, operation, size, depth, options))
    return rounds


def median(rounds, name):
    return statistics.median(one[name] for one in rounds)


def row(way, operation, size, depth, rounds):
    speeds = [one["megabytes_per_second"] for one in rounds]
    return {"transport": way[0], "channel": way[1], "operation": operation, "size": size, "depth": depth,
            **{name: median(rounds, name) for name in FIGURES},
            "megabytes_per_second_least": min(speeds), "megabytes_per_second_most": max(speeds), "rounds": rounds}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seconds", type=int, default=3, help="duration of each case in a round, in seconds (3)")
    parser.add_argument("--protect", choices=PROTECTION, default="none", help="how requests and data are protected (none)")
    parser.add_argument("--rounds", type=int, default=5, help="number of rounds of each case (5)")
    add_server_options(parser, "target/bench/smbd.json", "the figures")
    options = parser.parse_args()
    options.samba = samba_tree(options.samba, options.programs)
    return options


def main():
    options = arguments()
    # Use memory, so that no disk is measured.
    options.directory = pathlib.Path(tempfile.mkdtemp(prefix="smbdirect-bench-", dir="/dev/shm"))
    options.directory.chmod(0o755)
    server = Server(options.directory / "server", options.samba, options.programs, {"bench": []},
                    ["interfaces = lo", "bind interfaces only = yes"])
    results, ratios = [], []
    try:
        server.start()
        print(f"{'transport':10} {'what':6} {'channel':>7} {'size':>5} {'depth':>5} {'MB/s':>8} {'least - most':>17} {'p50':>9}"
              f"   CPU s/GiB: {'smbd':>6} {'device':>7} {'client':>7}")
        for operation in ("write", "read"):
            for size, depth in CASES:
                measured = measure_all(server, operation, size, depth, options)
                for way, rounds in measured.items():
                    r = row(way, operation, size, depth, rounds)
                    results.append(r)
                    spread = f"{r['megabytes_per_second_least']:.1f} - {r['megabytes_per_second_most']:.1f}"
                    print(f"{way[0]:10} {operation:6} {way[1]:>7} {size:>5} {depth:>5} {r['megabytes_per_second']:8.1f} {spread:>17} "
                          f"{r['latency_p50_microseconds']:6.0f} us              {r['smbd_seconds_per_gib']:6.2f} "
                          f"{r['device_seconds_per_gib']:7.2f} {r['client_seconds_per_gib']:7.2f}", flush=True)
                    if way != WAYS[0]:
                        ratios.append((f"{operation:6} {size:>5} x {depth}  channel {way[1]}", measured[WAYS[0]], rounds))
    finally:
        end_children()
        shutil.rmtree(options.directory, ignore_errors=True)
    print(f"\n{'SMB Direct / TCP':32} {'throughput':>11} {'p50':>6} {'smbd CPU':>10} {'CPU of all three':>17}")
    for what, tcp, rdma in ratios:
        def ratio(*names):
            sums = [[sum(one[name] for name in names) for one in rounds] for rounds in (rdma, tcp)]
            return statistics.median(r / t if t else float("nan") for r, t in zip(*sums))
        print(f"{what:32} {ratio(FIGURES[0]):11.2f} {ratio(FIGURES[1]):6.2f} {ratio(PROCESSES[0]):10.2f} {ratio(*PROCESSES):17.2f}")
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
