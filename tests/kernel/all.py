#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""On the machine: every test with the kernel, each in a guest of its own, one after the other.

Needs what `make test-kernel` builds: the guest's kernel, Samba, smbdirectd and smbdirectctl. The output of each guest is in
target/kernel/.
"""

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

import guest
from guest import smbd_server

HERE = pathlib.Path(__file__).resolve().parent
# How often a guest is tried whose kernel fails by a fault of its own.
TRIES = 5


def plan(options):
    """The name of each test, its command, and whether that runs in the guest."""
    where = ["--samba", options.samba, "--programs", options.programs]
    size = ["--largest", options.largest]
    tests = {}
    for fabric in ("software", "siw", "rxe"):
        more = ["--gigabyte"] if fabric == "software" and options.largest >= 256 else []
        tests[fabric] = [HERE / "client.py", fabric, *where, *size, *more]
        tests[f"{fabric}-failures"] = [HERE / "client.py", fabric, *where, "--failures", "--limit", 150]
        if fabric != "software" and options.conformance:
            tests[f"{fabric}-conformance"] = [HERE / "conformance.py", fabric, options.conformance]
    if options.module:
        for fabric in ("siw", "rxe"):
            tests[f"{fabric}-device"] = [HERE / "device.py", fabric, "--module", options.module]
    tests["ksmbd"] = [HERE / "initiator.py", *where]
    tests["outside"] = [HERE / "outside.py", *where, "--largest", min(64, options.largest)]
    return {name: command for name, command in tests.items() if not options.tests or name in options.tests}


def run(name, command, options):
    """Runs one test, again if the kernel has failed by itself; returns its seconds, or None if it failed."""
    directory = options.output / name
    passed = []
    for attempt in range(1, TRIES + 1):
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        environment = dict(os.environ, GUEST_DIR=str(directory), GUEST_SECONDS=str(options.seconds))
        in_guest = [] if name == "outside" else [HERE / "guest.sh", "run"]
        began = time.monotonic()
        status = subprocess.run([str(part) for part in (*in_guest, *command, *passed)], env=environment).returncode
        if status == 0:
            return time.monotonic() - began
        if status != guest.KERNEL_FAILED:
            return None
        print(f"-- {name}: the kernel has failed by a fault of its own; try {attempt} of {TRIES}", flush=True)
        if "--failures" not in command:
            continue
        # Tests that passed are not tried again, because otherwise the sum of their chances would
        # make it fail.
        checks = json.loads((directory / "report.json").read_text())["checks"]
        passed += [part for check in checks if check["ok"] for part in ("--skip", check["name"])]
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("tests", nargs="*", help="the tests to run, instead of all: software siw-failures")
    parser.add_argument("--samba", type=pathlib.Path, default=os.environ.get("SMBDIRECT_SAMBA"),
                        help="Samba's build tree (SMBDIRECT_SAMBA; otherwise the one of tools/samba.sh)")
    parser.add_argument("--programs", type=pathlib.Path, default=smbd_server.ROOT / "target/release",
                        help="the directory of smbdirectd and smbdirectctl")
    parser.add_argument("--conformance", type=pathlib.Path, help="the program of the conformance suite (cargo test --test verbs)")
    parser.add_argument("--module", type=pathlib.Path, help="smbdirectk.ko, the device in the kernel")
    parser.add_argument("--largest", type=int, default=256, help="MiB of the largest file (256)")
    parser.add_argument("--seconds", type=int, default=1200, help="until a guest is stopped (1200)")
    parser.add_argument("--output", type=pathlib.Path, default=smbd_server.ROOT / "target/kernel", help="directory for logs and reports")
    options = parser.parse_args()
    options.samba = smbd_server.samba_tree(options.samba, options.programs).resolve()
    options.programs = options.programs.resolve()
    options.module = options.module and options.module.resolve()
    results = {name: run(name, command, options) for name, command in plan(options).items()}
    print(f"\n{'guest':20} {'seconds':>8}")
    for name, seconds in results.items():
        print(f"{name:20} {'FAILED' if seconds is None else f'{seconds:.0f}':>8}")
    (options.output / "report.json").write_text(json.dumps(results, indent=1) + "\n")
    sys.exit(1 if None in results.values() or not results else 0)


if __name__ == "__main__":
    main()
