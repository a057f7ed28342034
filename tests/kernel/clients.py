#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""In the guest: tests the patched smbd on /dev/smbdirect, on siw, with this repository's clients and with Samba's.

    clients.py bench      our initiator, which verifies what it reads and writes
    clients.py torture    a part of smbtorture's suites over TCP, and over SMB Direct through `smbdirectctl bridge`
    clients.py kills      kills smbd's workers and clients at random while other clients verify what they move
"""

import argparse
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import threading
import time

import client
import guest
from guest import MEMORY, smbd_server

import torture

ADDRESS = guest.ADDRESS["siw"]


def bench(server, *more):
    """Returns the command of our initiator."""
    return [str(part) for part in (
        server.programs / "smbdirectctl", "bench", f"//{ADDRESS}/share", "-U", f"{server.user}%{smbd_server.PASSWORD}",
        "--address", f"{ADDRESS}:5445", "--transport", "smbdirect", "--rounds", 1, "--json", *more)]


class Benches:
    """Our initiator on both of its fabrics, with each way of moving data."""

    def __init__(self, options, report):
        self.report = report
        self.server = client.InKernel(options)

    def moves(self, *more):
        done = subprocess.run(bench(self.server, "--verify", "--seconds", 1, *more), stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True, timeout=240)
        assert done.returncode == 0, done.stderr
        cases = json.loads(done.stdout)["cases"]
        for case in cases:
            assert case["bytes"] > 0, case
            self.report.fact(f"{case['operation']} {case['size']} x {case['depth']}", f"{case['megabytes_per_second']:.1f} MB/s")

    def all(self):
        self.report.check("the module is loaded, and smbd attaches", self.server.start)
        for fabric in ("software", "verbs"):
            for sizes in ("1M,4K", "65537,1"):
                self.report.check(f"{fabric}: {sizes}, 1 and 8 at a time", self.moves, "--fabric", fabric, "--size", sizes,
                                  "--depth", "1,8", "--file-size", "8M")
            for way in ("--sign", "--seal"):
                self.report.check(f"{fabric}: {way}", self.moves, "--fabric", fabric, way, "--size", "64K", "--depth", 4,
                                  "--file-size", "8M")
        self.report.check("orderly end, and nothing is left", self.server.stop)


class Lane(torture.TortureServer):
    """A thread of tools/torture.py. All of them use one smbd, because the device has one listener; each has shares of
    its own."""

    lanes = 4
    module = None
    users = 0
    lock = threading.Lock()

    def __init__(self, number, options):
        super().__init__(0, options)
        self.lane = number
        self.shares.update({f"{name}{lane}": lines for name, lines in self.shares.items() for lane in range(self.lanes)})
        self.control = self.module.DEVICE
        self.settings[1] = f'interfaces = "lo;speed=10000000000,capability=RSS" {ADDRESS}/24'

    def start(self):
        with Lane.lock:
            if Lane.users == 0:
                super().start()
                Lane.first = self
            Lane.users += 1
        self.ports = Lane.first.ports

    def start_device(self):
        self.module.load()

    def stop(self):
        with Lane.lock:
            Lane.users -= 1
            if Lane.users == 0:
                torture.TortureServer.stop(Lane.first)
                print(f"          unloaded: {self.module.unload()}", flush=True)

    def reached_at(self):
        return f"{ADDRESS}:5445"

    def share_of(self, suite):
        return f"{super().share_of(suite)}{self.lane}"

    def trouble(self, after):
        """Looks at the logs once for all."""
        return super().trouble(after) if self is Lane.first else []


def run_torture(options, report):
    Lane.module = guest.Module(options.module)
    chosen = torture.parser().parse_args([
        "--short", "--samba", str(options.samba), "--programs", str(options.programs), "--servers", str(Lane.lanes),
        "--time-limit", str(options.limit), "--json", str(guest.OUTSIDE / "torture.json"), *options.suites])
    os.environ["TMPDIR"] = str(MEMORY)

    def all_pass():
        assert not torture.torture(chosen, Lane), "see above"

    report.watchdog.limit(3600, "smbtorture")
    report.limit = 3600
    try:
        report.check("whatever passes over TCP passes over SMB Direct", all_pass)
    finally:
        for logs in MEMORY.glob("smbdirect-torture-*/logs"):
            guest.run("cp", "-r", logs, guest.OUTSIDE / "torture-logs", check=False)


class Kills:
    """smbd with clients that verify what they move; at random, one of the clients or its smbd is killed."""

    def __init__(self, options, report):
        self.options = options
        self.report = report
        self.random = random.Random(options.seed)
        self.server = client.InKernel(options)

    def start(self):
        print(f"seed {self.options.seed}", flush=True)
        self.server.start()

    def client(self, seconds):
        fabric = self.random.choice(["software", "verbs"])
        command = bench(self.server, "--verify", "--seconds", seconds, "--size", "256K,4K", "--depth", 4, "--fabric", fabric,
                        "--file-size", "4M", "--timeout", 120)
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True)

    def served(self):
        """Returns which process of smbd serves which client's address."""
        return {connection["peer"]: connection["pid"] for connection in self.server.status()["connections"]}

    def victim(self, others):
        """Starts a client once the others are served, and returns it and its address."""
        smbd_server.wait_for("the others are served",
                             lambda: len(self.served()) >= sum(other.poll() is None for other in others), 60)
        before, new = self.served().keys(), set()
        process = self.client(60)

        def is_served():
            new.update(self.served().keys() - before)
            return new or process.poll() is not None

        smbd_server.wait_for("the client is served", is_served, 60)
        assert process.poll() is None, process.stderr.read()
        return process, new.pop()

    def kill(self, what, others):
        process, address = self.victim(others)
        time.sleep(self.random.random())
        if what == "client":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            # While the connection goes from one smbd to another, it has no process.
            smbd_server.wait_for("a process has the connection", lambda: self.served().get(address))
            os.kill(self.served()[address], signal.SIGKILL)
        said = process.communicate(timeout=240)[1]
        assert process.returncode != 0, f"the client did not notice that its {what} was killed: {said}"
        smbd_server.wait_for("the dead one's connection ends", lambda: address not in self.served(), 60)

    def all_kills(self):
        """Kills clients and workers while a bystander's data is verified."""
        others = []
        for number in range(self.options.kills):
            others = [other for other in others if self.lives(other)]
            while len(others) < 2:
                others.append(self.client(10))
            self.kill("client" if number % 2 else "worker", others)
        for other in others:
            said = other.communicate(timeout=240)[1]
            assert other.returncode == 0, said
        smbd_server.wait_for("all connections end", lambda: not self.server.status()["connections"], 60)

    def lives(self, other):
        if other.poll() is None:
            return True
        assert other.returncode == 0, other.stderr.read()
        return False

    def listener(self):
        """Kills smbd itself, again and again, while clients connect."""
        for _ in range(self.options.kills // 10):
            process = self.client(60)
            time.sleep(self.random.random() * 3)
            self.server.kill("smbd")
            process.communicate(timeout=240)
            assert process.returncode != 0
            smbd_server.wait_for("all connections end", lambda: not self.server.status()["connections"], 60)
            self.server.start_smbd()
        assert subprocess.run(bench(self.server, "--verify", "--seconds", 1, "--size", "64K", "--depth", 4, "--file-size", "4M"),
                              stdout=subprocess.DEVNULL, timeout=240).returncode == 0

    def all(self):
        check = self.report.check
        check("the module is loaded, and smbd attaches", self.start)
        check(f"{self.options.kills} clients and workers are killed, others are served", self.all_kills)
        check("smbd is killed, and serves again", self.listener)
        check("orderly end, and nothing is left", self.server.stop)


def main():
    parser = client.arguments()
    parser.description = __doc__
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32), help="repeats the choices of an earlier run")
    parser.add_argument("--kills", type=int, default=20, help="how many clients and workers are killed (20)")
    parser.add_argument("--suite", dest="suites", action="append", default=[], help="the suite of smbtorture to run, instead of a part of all")
    what, *more = sys.argv[1:] or ["--help"]
    options = parser.parse_args(["siw", *more] if what != "--help" else [what])
    report = guest.Report(f"{what}: /dev/smbdirect, Linux {os.uname().release}", options.only,
                          lambda: print("\n".join(guest.run("dmesg").splitlines()[-60:])), options.limit, options.skip)
    kernel = guest.Kernel()
    guest.add_rdma("siw")
    try:
        if what == "torture":
            run_torture(options, report)
        else:
            {"bench": Benches, "kills": Kills}[what](options, report).all()
        report.check("the kernel has no complaints", kernel.check)
    finally:
        smbd_server.end_children()
        guest.run("cp", "-r", MEMORY / "server/log", guest.OUTSIDE / "server-log", check=False)
        report.write()


if __name__ == "__main__":
    main()
