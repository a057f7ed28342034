#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Counts what a READ and a WRITE of 4 KiB cost smbd and smbdirectd, over TCP and over SMB Direct: not in time, but in
system calls, sleeps and instructions.

Counts hardly depend on how fast a machine is and what else it does. tests/counts.toml has the expected counts. If a
count is more than a tenth above the expected one, this fails; if it is clearly below, this says so, so that the gain
can be recorded there. docs/performance.md explains how to read the counts.

Requests go one at a time, by RDMA, and smbdirectd does not poll. The cost of a connection does not count.
"""

import argparse
import collections
import copy
import json
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import tomllib

import smbd_server
from smbd_server import PASSWORD, ROOT, Server, add_server_options, end_children, end_in_order, samba_tree, stop_rpc, wait_for
from tracing import SLEEP, Tracing, Unavailable

THRESHOLDS = ROOT / "tests/counts.toml"
DOCUMENTATION = ROOT / "docs/performance.md"
SIZE = 4096
CASES = [(operation, way) for operation in ("read", "write") for way in ("tcp", "smbdirect")]
PROGRAMS = ("smbd", "smbdirectd")
# The system call that smbd makes once for each operation.
MARKS = {"read": "pread64", "write": "pwrite64"}
OPERATIONS = 1000
# Under callgrind each operation takes fifty times as long.
OPERATIONS_IN_CALLGRIND = 300
# The function that smbd calls once for each request.
REQUEST = "smbd_smb2_request_dispatch"
NAMES = CALLS, SLEEPS, INSTRUCTIONS = "calls", "sleeps", "instructions"
# A count above ABOVE times its threshold fails. A count below BELOW times its threshold is a gain, if it is also at
# least GAIN below the threshold.
ABOVE, BELOW, GAIN = 1.10, 0.95, 0.5


class Bench:
    """smbd and smbdirectd in a directory in memory, and a record of what they do while a client works."""

    def __init__(self, root, options, run_by=None):
        self.root = root
        # Use one reactor, however many processors the machine has.
        device = 'busy_poll = "0 s"\nreactors = 1\n'
        self.server = Server(root, options.samba, options.programs, {"bench": []},
                             ["interfaces = lo", "bind interfaces only = yes"], device)
        self.server.run_by = run_by or {}
        self.server.start()
        self.device, self.smbd = (self.server.processes[name].pid for name in ("smbdirectd", "smbd"))
        self.permanent = self.children()

    def children(self):
        return set(pathlib.Path(f"/proc/{self.smbd}/task/{self.smbd}/children").read_text().split())

    def run(self, case, number):
        """Runs a client, and waits until it and its smbd are gone."""
        operation, way = case
        command = [self.server.programs / "smbdirectctl", "bench", f"//127.0.0.1:{self.server.ports['tcp']}/bench",
                   "-U", f"{self.server.user}%{PASSWORD}", "--address", f"127.0.0.1:{self.server.ports['rdma']}",
                   "--transport", way, "--operations", operation, "--channel", 1, "--size", SIZE, "--depth", 1, "--rounds", 1,
                   "--bytes", number * SIZE, "--file-size", 16 * SIZE, "--timeout", 300, "--json"]
        done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, timeout=600)
        if done.returncode:
            raise RuntimeError(f"smbdirectctl bench ended with {done.returncode}")
        moved = json.loads(done.stdout)["cases"][0]["bytes"]
        if moved != number * SIZE:
            raise RuntimeError(f"smbdirectctl bench moved {moved} bytes instead of {number * SIZE}")
        wait_for("the client's smbd ends", lambda: self.children() <= self.permanent)

    def stop(self):
        self.server.stop()


def operations(events, case, device):
    """Returns what smbd and smbdirectd did for each operation: counters by program.

    An operation lasts from one call with which smbd reads or writes the file to the next, so the cost of a connection
    is not counted. The first and the last tenth are left out, because the client begins and ends there.
    """
    mark = MARKS[case[0]]
    marks = collections.Counter(process for process, what in events if what == mark)
    smbd, number = marks.most_common(1)[0] if marks else (None, 0)
    if not OPERATIONS <= number <= OPERATIONS + 10:
        raise RuntimeError(f"{' '.join(case)}: smbd has {number} {mark} for {OPERATIONS} operations")
    names = {smbd: "smbd", device: "smbdirectd"}
    found = []
    for process, what in events:
        if (process, what) == (smbd, mark):
            found.append({program: collections.Counter() for program in PROGRAMS})
        if found and process in names:
            found[-1][names[process]][what] += 1
    return found[number // 10:-number // 10]


def middle_half(counts):
    counts = sorted(counts)
    return counts[len(counts) // 4:-len(counts) // 4]


def typical(counters):
    """Returns what a program does for an operation: the mean of the middle half of all operations.

    That leaves out rare events: a timer, a client that was not scheduled. The median would hide a call that is made for
    every third operation.
    """
    def calls(counter):
        return counter.total() - counter[SLEEP]

    half = sorted(counters, key=calls)[len(counters) // 4:-len(counters) // 4]
    total = sum(half, collections.Counter())
    return {CALLS: statistics.mean(map(calls, half)), SLEEPS: statistics.mean(middle_half(one[SLEEP] for one in counters)),
            "by_name": {name: round(count / len(half), 2) for name, count in total.most_common() if name != SLEEP}}


def count_calls(root, options, tracing):
    """Returns what each program does for an operation in each case, for each round."""
    rounds = {case: {program: [] for program in PROGRAMS} for case in CASES}
    bench = Bench(root, options)
    for number in range(options.rounds):
        for case in CASES:
            tracing.start([bench.smbd, bench.device])
            bench.run(case, OPERATIONS)
            found = operations(tracing.stop(), case, bench.device)
            for program in PROGRAMS:
                rounds[case][program].append(typical([one[program] for one in found]))
        print(f"round {number + 1} of {options.rounds}", flush=True)
    bench.stop()
    return rounds


def middle(rounds):
    """Returns the median of the rounds, and all of them.

    Other load adds to a count or reduces it: a thread that gets its processor late finds the other side asleep and has
    to wake it, or it finds two things to do at once. That happens only in some rounds, so neither the least nor the
    most is right.
    """
    of = {name: [round(one[name], 2) for one in rounds] for name in (CALLS, SLEEPS)}
    names = sorted(rounds, key=lambda one: one[CALLS])[len(rounds) // 2]["by_name"]
    return {**{name: round(statistics.median(counts), 2) for name, counts in of.items()}, "by_name": names, "rounds": of}


def total(file):
    """Returns the number of all instructions that callgrind counted in a file."""
    found = re.search(r"^(?:totals|summary): (\d+)", file.read_text(errors="replace"), re.M)
    return int(found[1]) if found else 0


def instructions(bench, case, number):
    """Returns the instructions of a run in user space: those of the smbd that served it, by request, and smbdirectd's
    in total."""
    dump = ["vgdb", f"--pid={bench.device}", f"--vgdb-prefix={bench.root}/vgdb", "dump"]
    files = bench.root / "callgrind"
    # Discard what smbdirectd did before this run.
    subprocess.run(dump, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=120)
    for file in files.iterdir():
        file.unlink()
    bench.run(case, number)
    subprocess.run(dump, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=120)
    requests = collections.defaultdict(dict)
    for file in files.glob("smbd.*.*"):
        _, process, request = file.name.split(".")
        requests[process][int(request)] = total(file)
    serving = [found for _, found in sorted(max(requests.values(), key=len, default={}).items())]
    if not number <= len(serving) <= number + 100:
        raise RuntimeError(f"{' '.join(case)}: callgrind saw {len(serving)} requests of {number} in smbd")
    return min(serving[number // 4:-number // 4]), max(total(file) for file in files.glob("smbdirectd.*"))


def count_instructions(root, options):
    """Returns the instructions per operation of each program in each case.

    For smbd, this is the least number between one request and the next: callgrind makes everything so slow that smbd
    hands most of the operations to threads. smbdirectd has no place that marks a request, so its instructions in a run
    of N operations are subtracted from those in a run of 2 N. They vary with how often smbdirectd finds something to do
    before it sleeps.
    """
    smbd_server.PATIENCE = 300
    (root / "callgrind").mkdir(parents=True)
    # smbd runs as the client's user while it serves the client.
    (root / "callgrind").chmod(0o777)
    callgrind = {program: ["valgrind", "--tool=callgrind", f"--vgdb-prefix={root}/vgdb",
                           f"--callgrind-out-file={root}/callgrind/{program}.%p"] for program in PROGRAMS}
    callgrind["smbd"].append(f"--dump-before={REQUEST}")
    bench = Bench(root, options, callgrind)
    found = {}
    for case in CASES:
        smbd, few = instructions(bench, case, OPERATIONS_IN_CALLGRIND)
        found[case] = {"smbd": smbd}
        # Over TCP smbdirectd has nothing to do.
        if case[1] != "tcp":
            again, many = instructions(bench, case, 2 * OPERATIONS_IN_CALLGRIND)
            found[case]["smbd"] = min(smbd, again)
            found[case]["smbdirectd"] = round((many - few) / OPERATIONS_IN_CALLGRIND)
        print(f"{' '.join(case)}: {found[case]}", flush=True)
    bench.stop()
    return found


def judge(counts, thresholds):
    """Returns sentences that say which counts are more than a tenth above their thresholds, and which are clearly below
    in every round."""
    above, below = [], []
    for operation, way, program, name, threshold in each(thresholds):
        found = counts[operation][way].get(program, {})
        # If system calls or instructions could not be counted, there is no count.
        if name not in found:
            continue
        what = f"{operation} {way}: {program} has {found[name]:g} {name} for an operation; {THRESHOLDS.name} says {threshold:g}"
        if found[name] > threshold * ABOVE:
            above.append(what)
        elif max(found.get("rounds", {}).get(name, [found[name]])) < gain_from(name, threshold):
            below.append(what)
    return above, below


def gain_from(name, threshold):
    """Returns the limit below which a count is a gain. Fewer sleeps do not count as a gain: a busy machine saves
    some by chance, and a change that saves sleeps for good saves calls too."""
    return 0 if name == SLEEPS else min(threshold * BELOW, threshold - GAIN)


def each(thresholds):
    for operation, ways in thresholds.items():
        for way, programs in ways.items():
            for program, named in programs.items():
                for name, threshold in named.items():
                    yield operation, way, program, name, threshold


def test_judge(thresholds):
    """Checks that each threshold lets a count pass that is a little higher, catches one that is more than a tenth
    higher, and notices a gain."""
    for operation, way, program, name, threshold in each(thresholds):
        gain = gain_from(name, threshold)
        for count, sentences in ((threshold, (0, 0)), (threshold * 1.09, (0, 0)), (threshold * 1.11, (1, 0)),
                                 (gain + 0.01, (0, 0)), (gain - 0.01, (0, 1))):
            counts = copy.deepcopy(thresholds)
            counts[operation][way][program][name] = count
            if tuple(map(len, judge(counts, thresholds))) != sentences:
                sys.exit(f"counts: {count} {name} of {program} for a {operation} over {way} are judged wrongly")


def test_documentation(thresholds):
    """Checks that the table in the documentation has the thresholds."""
    names = {"tcp": "TCP", "smbdirect": "SMB Direct"}
    rows = [" | ".join((f"| {operation.upper()}", names[way], program,
                        *(f"{limits[name]:,}" if name in limits else "-" for name in NAMES))) + " |"
            for operation, way in CASES for program, limits in thresholds[operation][way].items()]
    if "\n".join(rows) not in DOCUMENTATION.read_text():
        sys.exit("\n".join([f"counts: {DOCUMENTATION} does not have the numbers of {THRESHOLDS}; they are", *rows]))


def show(counts, thresholds):
    print(f"\nFor an operation of {SIZE} bytes: the count, [what tests/counts.toml says], the rounds' least and most.\n")
    for operation, way in CASES:
        for program, found in counts[operation][way].items():
            limits = thresholds.get(operation, {}).get(way, {}).get(program, {})
            line = f"{operation:5} {way:9} {program:10}"
            for name in NAMES:
                if name in found:
                    rounds = found.get("rounds", {}).get(name)
                    cell = f"{found[name]:g} {name} [{limits.get(name, '-')}]"
                    cell += f" {min(rounds):g}-{max(rounds):g}" if rounds else ""
                    line += f"  {cell:30}"
            print(line.rstrip())
            if "by_name" in found:
                print(" " * 28 + ", ".join(f"{name} {count:g}" for name, count in found["by_name"].items() if count >= 0.05))


def collect(root, options):
    """Returns the counts by operation, way and program."""
    counts = {operation: {way: {} for of, way in CASES if of == operation} for operation, _ in CASES}

    def add(case, program, found):
        # Over TCP smbdirectd has nothing to do.
        if program == "smbd" or case[1] != "tcp":
            counts[case[0]][case[1]].setdefault(program, {}).update(found)

    try:
        tracing = Tracing()
        try:
            for case, programs in count_calls(root / "calls", options, tracing).items():
                for program, rounds in programs.items():
                    add(case, program, middle(rounds))
        finally:
            tracing.close()
    except Unavailable as reason:
        print(f"SKIPPED: counts of system calls and sleeps: {reason}")
    if options.instructions and not shutil.which("valgrind"):
        print("SKIPPED: counts of instructions: there is no valgrind")
    elif options.instructions:
        for case, programs in count_instructions(root / "instructions", options).items():
            for program, number in programs.items():
                add(case, program, {INSTRUCTIONS: number})
    return counts


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="how many times each case is run (5)")
    parser.add_argument("--instructions", action="store_true", help="also count instructions, with valgrind, which takes another minute")
    add_server_options(parser, "target/counts.json", "the counts")
    options = parser.parse_args()
    options.samba = samba_tree(options.samba, options.programs)
    return options


def main():
    options = arguments()
    thresholds = tomllib.loads(THRESHOLDS.read_text())
    test_judge(thresholds)
    test_documentation(thresholds)
    end_in_order()
    # Use memory, so that nothing waits for a disk.
    root = pathlib.Path(tempfile.mkdtemp(prefix="smbdirect-counts-", dir="/dev/shm"))
    root.chmod(0o755)
    try:
        counts = collect(root, options)
    finally:
        end_children()
        for server in root.iterdir():
            stop_rpc(server)
        shutil.rmtree(root, ignore_errors=True)
    show(counts, thresholds)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps({"counts": counts, "thresholds": thresholds}, indent=1) + "\n")
    above, below = judge(counts, thresholds)
    for what in below:
        print(f"BELOW: {what}: write the new count there")
    for what in above:
        print(f"ABOVE: {what}")
    return 1 if above else 0


if __name__ == "__main__":
    sys.exit(main())
