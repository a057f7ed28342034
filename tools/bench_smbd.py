#!/usr/bin/env python3
"""Measures the same client against the same smbd over TCP and over SMB Direct, in one run, case by case.

The share is in memory. For each case: what the client sees (`smbdirectctl bench`), and the processor time that smbd's
process for it and the device took. The last table has the ratios of SMB Direct to TCP, and the goals.
"""

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

from smbd_server import PASSWORD, ROOT, Server, end_children, samba_tree

# size, depth, seconds
CASES = [("1M", 1), ("1M", 8), ("64K", 1), ("64K", 8), ("4K", 1)]
FILE = "64M"
GIB = float(1 << 30)
TICK = 1.0 / os.sysconf("SC_CLK_TCK")


def times(pid, first):
    """Processor seconds of a process (first = 13), or of its children that have ended (15)."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    # The first of them is the third of proc(5).
    return (int(fields[first - 2]) + int(fields[first - 1])) * TICK


def measure(server, transport, operation, size, depth, seconds, prefix):
    smbd, device = (server.processes[name].pid for name in ("smbd", "smbdirectd"))
    before = times(smbd, 15), times(device, 13)
    command = [*prefix, server.programs / "smbdirectctl", "bench",
               f"//127.0.0.1:{server.ports['tcp']}/bench", "-U", f"{server.user}%{PASSWORD}",
               "--address", f"127.0.0.1:{server.ports['rdma']}", "--transport", transport, "--operations", operation,
               "--size", size, "--depth", depth, "--seconds", seconds, "--file-size", FILE, "--json"]
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, timeout=seconds + 120)
    if done.returncode:
        sys.exit(f"bench: smbdirectctl bench ended with {done.returncode}")
    case = json.loads(done.stdout)["cases"][0]
    # Its smbd ends a moment after the client.
    time.sleep(0.5)
    after = times(smbd, 15), times(device, 13)
    gib = case["bytes"] / GIB
    return {
        "transport": transport, "operation": operation, "size": size, "depth": depth,
        "megabytes_per_second": case["megabytes_per_second"],
        "latency_p50_microseconds": case["latency_p50_microseconds"],
        "smbd_seconds_per_gib": (after[0] - before[0]) / gib,
        "device_seconds_per_gib": (after[1] - before[1]) / gib,
        "client_seconds_per_gib": case["client_cpu_seconds_per_gib"],
    }


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seconds", type=int, default=3, help="seconds that each case takes (3)")
    parser.add_argument("--samba", type=pathlib.Path, default=os.environ.get("SMBDIRECT_SAMBA"),
                        help="Samba's build tree (SMBDIRECT_SAMBA; otherwise the one of tools/samba.sh)")
    parser.add_argument("--programs", type=pathlib.Path, default=ROOT / "target/release",
                        help="where smbdirectd and smbdirectctl are")
    parser.add_argument("--priority", action="store_true",
                        help="before all other work on this machine (chrt -f), where that is busy")
    parser.add_argument("--json", type=pathlib.Path, default=ROOT / "target/bench/smbd.json",
                        help="where to put the figures (target/bench/smbd.json)")
    options = parser.parse_args()
    options.samba = samba_tree(options.samba, options.programs)
    return options


def main():
    options = arguments()
    # Memory, so that no disk is measured.
    options.directory = pathlib.Path(tempfile.mkdtemp(prefix="smbdirect-bench-", dir="/dev/shm"))
    options.directory.chmod(0o755)
    prefix = ["chrt", "-f", "10"] if options.priority else []
    server = Server(options.directory / "server", options.samba, options.programs, {"bench": []},
                    ["interfaces = lo", "bind interfaces only = yes"])
    results = []
    try:
        server.start()
        if options.priority:
            for name in ("smbd", "smbdirectd"):
                subprocess.run(["chrt", "-a", "-f", "-p", "10", str(server.processes[name].pid)], check=True)
        print(f"{'transport':10} {'what':6} {'size':>5} {'depth':>5} {'MB/s':>9} {'p50':>9}"
              f"   CPU s/GiB: {'smbd':>6} {'device':>7} {'client':>7}")
        for operation in ("write", "read"):
            for size, depth in CASES:
                for transport in ("tcp", "smbdirect"):
                    r = measure(server, transport, operation, size, depth, options.seconds, prefix)
                    results.append(r)
                    print(f"{transport:10} {operation:6} {size:>5} {depth:>5} {r['megabytes_per_second']:9.1f} "
                          f"{r['latency_p50_microseconds']:6.0f} us              {r['smbd_seconds_per_gib']:6.2f} "
                          f"{r['device_seconds_per_gib']:7.2f} {r['client_seconds_per_gib']:7.2f}", flush=True)
    finally:
        end_children()
        shutil.rmtree(options.directory, ignore_errors=True)
    print("\nSMB Direct / TCP        throughput (1.0 or more)   smbd's CPU (0.6 or less)   p50 (1.3 or less at 4K)")
    for tcp, rdma in zip(results[::2], results[1::2]):
        def ratio(name):
            return rdma[name] / tcp[name] if tcp[name] else float("nan")
        print(f"{tcp['operation']:6} {tcp['size']:>5} x {tcp['depth']}  {ratio('megabytes_per_second'):24.2f}"
              f" {ratio('smbd_seconds_per_gib'):26.2f} {ratio('latency_p50_microseconds'):25.2f}")
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
