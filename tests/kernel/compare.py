#!/usr/bin/env python3
"""In the guest: the same fio jobs of the kernel's client against smbd and against ksmbd, over the same siw, in one boot.

    compare.py            smbd with smbdirectd on its own iWARP, and ksmbd
    compare.py --verbs    and smbd with smbdirectd on verbs

The servers take turns, so that what else the machine does meets all of them. The table has the medians, and the ratios
of smbd's throughput to ksmbd's.
"""

import json
import statistics
import sys

import client
import guest

# size, depth
JOBS = [("1M", 1), ("1M", 8), ("64k", 1), ("4k", 1)]


def fio(mounted, name, operation, size, depth, seconds):
    """MiB per second, and the median latency in microseconds."""
    said = guest.run("fio", "--output-format=json", f"--name={name}", f"--filename={mounted}/{name}", f"--rw={operation}",
                     f"--bs={size}", f"--iodepth={depth}", "--ioengine=libaio", "--direct=1", "--size=64M", "--fallocate=none",
                     "--time_based", f"--runtime={seconds}", "--create_on_open=1", timeout=300)
    job = json.loads(said[said.index("{"):])["jobs"][0][operation]
    return job["bw_bytes"] / (1 << 20), job["clat_ns"]["percentile"]["50.000000"] / 1000


def measure(name, server, options, turn, results):
    server.start()
    try:
        with guest.Mount("/mnt/cifs", guest.ADDRESS["siw"], "share", server.user, "vers=3.1.1,nosharesock,cache=none") as mounted:
            for size, depth in JOBS:
                # ksmbd of 6.12 does not survive that a file is written again by a later mount.
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
    print(f"\n{'':16}" + "".join(f"{name:>24}" for name in names) + "   ratio of MiB/s to ksmbd")
    rows = []
    for (operation, size, depth), values in results.items():
        rates = {name: statistics.median(rate for rate, _ in values[name]) for name in names}
        waits = {name: statistics.median(wait for _, wait in values[name]) for name in names}
        ratios = {name: rates[name] / rates["ksmbd"] for name in names if name != "ksmbd"}
        rows.append({"operation": operation, "size": size, "depth": depth, "mib_per_second": rates, "p50_microseconds": waits,
                     "ratio": ratios})
        print(f"{operation:6}{size:>4} x {depth:<3}" + "".join(f"{rates[name]:12.1f} {waits[name]:8.0f} us" for name in names)
              + "   " + "  ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items()), flush=True)
    return rows


def main():
    parser = client.arguments()
    parser.add_argument("--verbs", action="store_true", help="smbdirectd on verbs, too")
    parser.add_argument("--turns", type=int, default=3, help="how often each server has its turn (3)")
    parser.add_argument("--seconds", type=int, default=3, help="seconds that each job takes (3)")
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
