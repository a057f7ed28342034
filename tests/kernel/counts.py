#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""In the guest: counts what a READ and a WRITE of 4 KiB by Linux's client cost on siw, with smbdirectd and with the
kernel module in the same boot.

Two things are counted: smbd's system calls (tools/tracing.py), and the context switches of the whole machine
(/proc/stat), in which the client, siw's threads and smbdirectd take part. The client makes one request at a time, from
memory that is not cached. The last lines are the table of docs/kernel.md.
"""

import collections
import mmap
import os
import statistics
import sys
import time

import client
import guest
from guest import Kernel, Report, smbd_server

import tracing

SIZE = 4096
OPERATIONS = 300
MARKS = {"read": "pread64", "write": "pwrite64"}
# What the design allows for the module: system calls of smbd by name, and context switches of the machine relative to
# those with smbdirectd.
LIMITS = {"read": {"ioctl": 2, "epoll_wait": 2}, "write": {"ioctl": 3}}
SWITCHES = 0.9
# A tenth more is still the same count.
ABOVE = 1.1


def switches():
    """Returns the number of context switches of the machine since its start."""
    with open("/proc/stat") as stat:
        return next(int(line.split()[1]) for line in stat if line.startswith("ctxt "))


class File:
    """A file on a mount, which is read and written past the client's cache."""

    def __init__(self, path):
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_DIRECT, 0o666)
        self.memory = mmap.mmap(-1, SIZE)
        self.memory[:] = os.urandom(SIZE)
        for at in range(16):
            os.pwrite(self.fd, self.memory, at * SIZE)

    def repeat(self, operation, count):
        for number in range(count):
            at = number % 16 * SIZE
            done = os.preadv(self.fd, [self.memory], at) if operation == "read" else os.pwrite(self.fd, self.memory, at)
            assert done == SIZE, done

    def close(self):
        os.close(self.fd)


def smbd_calls(events, operation):
    """Returns smbd's system calls for an operation by name: the mean of the middle half of all operations.

    An operation lasts from one call that reads or writes the file to the next.
    """
    marks = collections.Counter(process for process, what in events if what == MARKS[operation])
    smbd, number = marks.most_common(1)[0] if marks else (None, 0)
    assert OPERATIONS <= number <= OPERATIONS + 10, f"{number} {MARKS[operation]} for {OPERATIONS} operations"
    found = []
    for process, what in events:
        if process != smbd:
            continue
        if what == MARKS[operation]:
            found.append(collections.Counter())
        if found:
            found[-1][what] += 1
    found = sorted(found[number // 10:-number // 10], key=collections.Counter.total)
    half = found[len(found) // 4:-(len(found) // 4)]
    total = sum(half, collections.Counter())
    return {name: count / len(half) for name, count in total.items()}


class Counts:
    def __init__(self, options, report):
        self.options = options
        self.report = report
        self.found = {}

    def device(self, name, server, tracer):
        """Counts each operation with one device."""
        server.start()
        mount = guest.Mount("/mnt/cifs", server.address, "share", server.user, "vers=3.1.1,nosharesock,cache=none")
        with mount as mounted:
            file = File(mounted / "counts")
            for operation in MARKS:
                # The first requests make buffers and caches.
                file.repeat(operation, 50)
                rounds = []
                for _ in range(self.options.rounds):
                    before = switches()
                    file.repeat(operation, OPERATIONS)
                    rounds.append((switches() - before) / OPERATIONS)
                tracer.start(server.workers())
                began = time.monotonic()
                file.repeat(operation, OPERATIONS)
                took = time.monotonic() - began
                calls = smbd_calls(tracer.stop(), operation)
                self.found[name, operation] = {"switches": statistics.median(rounds), "rounds": rounds, "calls": calls}
                shown = ", ".join(f"{call} {count:.2f}" for call, count in
                                  sorted(calls.items(), key=lambda item: -item[1]) if count >= 0.05 and call != tracing.SLEEP)
                self.report.fact(f"{name}, {operation}", f"switches {' '.join(f'{one:.1f}' for one in rounds)}; {shown}; "
                                 f"{took / OPERATIONS * 1e3:.2f} ms while it is traced")
            file.close()
        server.stop()

    def rows(self):
        """Returns the table of docs/kernel.md."""
        yield "| operation of 4 KiB | device | smbd: `ioctl` | `epoll_wait` | all calls | switches of the machine |"
        yield "|---|---|---:|---:|---:|---:|"
        for operation in MARKS:
            for name in ("smbdirectd", "module"):
                one = self.found[name, operation]
                calls = one["calls"]
                total = sum(count for call, count in calls.items() if call != tracing.SLEEP)
                relative = one["switches"] / self.found["smbdirectd", operation]["switches"]
                yield (f"| {operation.upper()} | {name} | {calls.get('ioctl', 0):.1f} | {calls.get('epoll_wait', 0):.1f} | "
                       f"{total:.1f} | {one['switches']:.1f} ({relative:.2f}) |")

    def judge(self):
        above = []
        for operation, limits in LIMITS.items():
            one = self.found["module", operation]
            for call, limit in limits.items():
                count = one["calls"].get(call, 0)
                if count > limit * ABOVE:
                    above.append(f"{operation}: {count:.2f} {call} of smbd, not {limit}")
            relative = one["switches"] / self.found["smbdirectd", operation]["switches"]
            if relative > SWITCHES * ABOVE:
                above.append(f"{operation}: {relative:.2f} of the switches with smbdirectd, not {SWITCHES}")
        assert not above, "; ".join(above)

    def all(self, tracer):
        check = self.report.check
        check("smbdirectd on siw", self.device, "smbdirectd", client.Server(self.options), tracer)
        check("the module on siw", self.device, "module", client.InKernel(self.options), tracer)
        print("\n".join(self.rows()), flush=True)
        check("the module costs no more than the design allows", self.judge)


def main():
    parser = client.arguments()
    parser.description = __doc__
    parser.add_argument("--rounds", type=int, default=5, help="how often each operation is counted (5)")
    options = parser.parse_args(["siw", *sys.argv[1:]])
    report = Report(f"counts on siw, Linux {os.uname().release}", options.only, lambda: None, options.limit)
    kernel = Kernel()
    guest.add_rdma("siw")
    tracer = tracing.Tracing()
    try:
        Counts(options, report).all(tracer)
        report.check("the kernel has no complaints", kernel.check)
    finally:
        tracer.close()
        smbd_server.end_children()
        report.write()


if __name__ == "__main__":
    main()
