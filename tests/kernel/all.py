#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""On the host: runs every kernel test, each in its own guest, and two guests at once.

A guest often waits, for example until its peer's time limits pass; meanwhile another guest uses the processors. Needs
what `make test-kernel` builds: the guest's kernel, Samba, smbdirectd and smbdirectctl. The output of each guest is in
target/kernel/.
"""

import argparse
import collections
import concurrent.futures
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import time

import guest
from guest import smbd_server

HERE = pathlib.Path(__file__).resolve().parent
# How many times a guest is started if a bug in its kernel ends it (KERNEL_FAILED of guest.py).
TRIES = 5
# The tests that run only if they are named: they take long, or need a machine that does nothing else.
LONG = {"module-torture", "module-kills", "module-bench", "module-counts", "software-restart"}
# The programs that take --limit.
LIMITED = {"client.py", "clients.py", "counts.py", "device.py"}


def plan(options):
    """Returns the command of each test to run, by the name of the test."""
    where = ["--samba", options.samba, "--programs", options.programs]
    size = ["--largest", options.largest]
    tests = {}
    for fabric in ("software", "siw", "rxe"):
        more = ["--gigabyte"] if fabric == "software" and options.largest >= 256 else []
        tests[fabric] = [HERE / "client.py", fabric, *where, *size, *more]
        tests[f"{fabric}-failures"] = [HERE / "client.py", fabric, *where, "--failures", "--limit", 240]
        if fabric != "software" and options.conformance:
            tests[f"{fabric}-conformance"] = [HERE / "conformance.py", fabric, options.conformance]
    tests["software-restart"] = [HERE / "restart.py", *where]
    if options.module:
        for fabric in ("siw", "rxe"):
            module = ["--module", options.module]
            tests[f"{fabric}-module"] = [HERE / "client.py", fabric, *where, *size, *module]
            tests[f"{fabric}-module-failures"] = [HERE / "client.py", fabric, *where, *module, "--failures", "--limit", 240]
            device = [HERE / "device.py", fabric, *module, "--programs", options.programs]
            # The clients of these programs speak iWARP.
            if fabric == "siw":
                device += ["--fuzz", options.fuzz, "--fuzz-seconds", options.fuzz_seconds] if options.fuzz else []
                device += ["--players", options.players, "--player-kills", options.kills] if options.players else []
            tests[f"{fabric}-device"] = device
        for what in ("bench", "torture", "kills"):
            tests[f"module-{what}"] = [HERE / "clients.py", what, *where, *module]
        tests["module-counts"] = [HERE / "counts.py", *where, *module]
    tests["ksmbd"] = [HERE / "initiator.py", *where]
    tests["outside"] = [HERE / "outside.py", *where, "--largest", min(64, options.largest)]
    if options.limit:
        tests = {name: [*command, *(["--limit", options.limit] if command[0].name in LIMITED else [])]
                 for name, command in tests.items()}
    return {name: command for name, command in tests.items() if name in (options.tests or tests.keys() - LONG)}


class Guests:
    """The guests that run now. Each is a process group, so that everything that it has started can be ended with it."""

    def __init__(self):
        self.running = set()
        self.lock = threading.Lock()
        self.ending = False
        # The first column of the output is the name of the guest.
        self.width = 0
        # The last lines of each guest, to repeat them at the end if it failed.
        self.last = collections.defaultdict(lambda: collections.deque(maxlen=15))

    def say(self, name, line):
        with self.lock:
            print(f"{name:{self.width}}  {line.rstrip()}", flush=True)
            self.last[name].append(line.rstrip())

    def run(self, name, command, environment):
        """Runs a command and prints its lines. Returns its exit status and the processor time that it has used, in
        seconds."""
        with self.lock:
            if self.ending:
                return 1, 0
            process = subprocess.Popen([str(part) for part in command], env=environment, stdin=subprocess.DEVNULL,
                                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
                                       start_new_session=True)
            self.running.add(process.pid)
        for line in process.stdout:
            self.say(name, line)
        _, status, usage = os.wait4(process.pid, 0)
        with self.lock:
            self.running.discard(process.pid)
        process.returncode = os.waitstatus_to_exitcode(status)
        return process.returncode, usage.ru_utime + usage.ru_stime

    def end(self):
        with self.lock:
            self.ending = True
            for pid in self.running:
                os.killpg(pid, signal.SIGTERM)


def run(name, command, options, guests):
    """Runs one test, and again if a bug in the kernel ended it. Returns the time that it took, or None if it failed."""
    directory = options.output / name
    passed = []
    began, processor = time.monotonic(), 0.0
    for attempt in range(1, TRIES + 1):
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        environment = dict(os.environ, GUEST_DIR=str(directory), GUEST_SECONDS=str(options.seconds))
        in_guest = [] if name == "outside" else [HERE / "guest.sh", "run"]
        status, used = guests.run(name, (*in_guest, *command, *passed), environment)
        processor += used
        if status == 0:
            return {"seconds": round(time.monotonic() - began), "processor": round(processor)}
        if status != guest.KERNEL_FAILED:
            return None
        guests.say(name, f"-- a bug in the kernel ended the test; try {attempt} of {TRIES}")
        if name.endswith("conformance") or name in ("ksmbd", "outside"):
            continue
        # Skip the checks that have passed: each could meet the kernel's bug again, and with all of them in every try,
        # perhaps no try would get through. But until the check "the device's counters" has passed, skip nothing: it
        # needs the traffic of the checks before it. `--failures` has no such check.
        names = [check["name"] for check in json.loads((directory / "report.json").read_text())["checks"] if check["ok"]]
        if "--failures" in command or "the device's counters" in names:
            passed += [part for one in names for part in ("--skip", one)]
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("tests", nargs="*", help="the tests to run instead of all, such as: software siw-failures")
    parser.add_argument("--samba", type=pathlib.Path, default=os.environ.get("SMBDIRECT_SAMBA"),
                        help="Samba's build tree (SMBDIRECT_SAMBA; without it, the tree of tools/samba.sh)")
    parser.add_argument("--programs", type=pathlib.Path, default=smbd_server.ROOT / "target/release",
                        help="the directory of smbdirectd and smbdirectctl")
    parser.add_argument("--conformance", type=pathlib.Path, help="the program of the conformance suite (cargo test --test verbs builds it)")
    parser.add_argument("--module", type=pathlib.Path, help="smbdirectk.ko, the device in the kernel")
    parser.add_argument("--fuzz", type=pathlib.Path, help="the program that breaks the rules of the device (cargo test --test device_fuzz builds it)")
    parser.add_argument("--fuzz-seconds", type=int, default=20, help="how long it does (20)")
    parser.add_argument("--players", type=pathlib.Path, help="the program whose processes are killed (cargo test --test kill builds it)")
    parser.add_argument("--kills", type=int, default=10, help="how many of them are killed (10)")
    parser.add_argument("--limit", type=int, help="seconds that a check may take, instead of what each test says")
    parser.add_argument("--largest", type=int, default=256, help="size of the largest file in MiB (256)")
    parser.add_argument("--seconds", type=int, default=1200, help="seconds until a guest is stopped (1200)")
    parser.add_argument("--at-once", type=int, default=2, help="number of guests that run at once (2)")
    parser.add_argument("--output", type=pathlib.Path, default=smbd_server.ROOT / "target/kernel", help="the directory for logs and reports")
    options = parser.parse_args()
    options.samba = smbd_server.samba_tree(options.samba, options.programs).resolve()
    options.programs = options.programs.resolve()
    options.module = options.module and options.module.resolve()
    tests, guests = plan(options), Guests()
    unknown = [name for name in options.tests if name not in tests]
    if unknown or not tests:
        sys.exit(f"no test of this name, or it needs --module or --conformance: {', '.join(unknown)}")
    guests.width = max(map(len, tests), default=0)
    smbd_server.end_in_order()
    began = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(options.at_once) as pool:
        try:
            waiting = {name: pool.submit(run, name, command, options, guests) for name, command in tests.items()}
            results = {name: test.result() for name, test in waiting.items()}
        except BaseException:
            guests.end()
            raise
    print(f"\n{'guest':20} {'seconds':>8} {'of processors':>14}")
    for name, took in results.items():
        print(f"{name:20} " + (f"{'FAILED':>8}" if took is None else f"{took['seconds']:>8} {took['processor']:>14}"))
    print(f"{'all':20} {time.monotonic() - began:>8.0f}")
    for name in (name for name, took in results.items() if took is None):
        print(f"\nthe last lines of {name}:", *guests.last[name], sep="\n    ")
    (options.output / "report.json").write_text(json.dumps(results, indent=1) + "\n")
    sys.exit(1 if None in results.values() or not results else 0)


if __name__ == "__main__":
    main()
