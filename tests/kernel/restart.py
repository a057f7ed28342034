#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""In the guest: restarts smbdirectd ten times, as systemd does, while the kernel's client and `smbdirectctl bench` work on
software iWARP. No connection may end, and no byte may be wrong. Takes the options of client.py."""

import fcntl
import multiprocessing
import os
import pathlib
import re
import select
import socket
import sys
import time

import client
import files
import guest
from guest import smbd_server

RESTARTS = 10
# The connections: one of each mount, and one of bench.
CONNECTIONS = 3


class Manager:
    """A service manager with a descriptor store (FileDescriptorStoreMax= of systemd.service(5)), for one service."""

    ROOM = 4096
    # The copies of descriptors for a new process have numbers from here on, above those that they get there.
    COPIES = 8192
    # How many seconds a start or a stop may take on a busy machine.
    PATIENCE = 120

    def __init__(self, path):
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.store = []
        self.ready = False

    def start(self, command, log):
        """Starts the service with what is in the store, and waits until it is ready."""
        copies = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, self.COPIES) for _, descriptor in self.store]
        environment = dict(os.environ, NOTIFY_SOCKET=str(self.path), FDSTORE=str(self.ROOM), LISTEN_FDS=str(len(copies)),
                           LISTEN_FDNAMES=":".join(name for name, _ in self.store))

        def pass_on():
            for number, copy in enumerate(copies, 3):
                os.dup2(copy, number)

        self.ready = False
        # The program that the shell becomes keeps the shell's process number.
        child = smbd_server.start(["sh", "-c", 'LISTEN_PID=$$ exec "$0" "$@"', *command], log, env=environment,
                                  close_fds=False, preexec_fn=pass_on)
        for copy in copies:
            os.close(copy)
        self.listen(lambda: self.ready or child.poll() is not None)
        return child

    def stop(self, child):
        """Stops the service. What it leaves stays in the store."""
        child.terminate()
        self.listen(lambda: child.poll() is not None)
        smbd_server.kill(child)
        assert child.returncode == 0, f"smbdirectd ended with {child.returncode}"

    def listen(self, has_ended):
        """Handles messages until there are no more, and `has_ended` returns True."""
        end = time.monotonic() + self.PATIENCE
        while True:
            if select.select([self.socket], [], [], 0.001)[0]:
                self.handle(*socket.recv_fds(self.socket, 4096, 1)[:2])
            elif has_ended():
                return
            assert time.monotonic() < end, f"smbdirectd: not within {self.PATIENCE} s"

    def handle(self, message, descriptors):
        said = dict(line.split("=", 1) for line in message.decode().splitlines())
        if "FDSTORE" in said:
            # Python leaves descriptors that are received inheritable.
            for descriptor in descriptors:
                os.set_inheritable(descriptor, False)
            self.store += [(said["FDNAME"], descriptor) for descriptor in descriptors]
            return
        if "FDSTOREREMOVE" in said:
            descriptors += [descriptor for name, descriptor in self.store if name == said["FDNAME"]]
            self.store = [(name, descriptor) for name, descriptor in self.store if name != said["FDNAME"]]
        # The sender of BARRIER=1 waits until its descriptor is closed.
        for descriptor in descriptors:
            os.close(descriptor)
        self.ready |= "READY" in said


class Managed(client.Server):
    """The patched smbd, and smbdirectd as a service."""

    manager = None

    def start_program(self, name, command):
        if name != "smbdirectd":
            return super().start_program(name, command)
        self.manager = self.manager or Manager(self.root / "notify")
        with open(self.root / "log" / name, "ab") as log:
            return self.manager.start(command, log)

    def restart_device(self):
        self.manager.stop(self.processes.pop("smbdirectd"))
        self.start_device()

    def stop(self):
        self.manager.stop(self.processes.pop("smbdirectd"))
        super().stop()

    def log(self):
        return (self.root / "log/smbdirectd").read_text()


class Pulse:
    """Writes a block past the page cache and reads it back, again and again. `longest` is the time of the longest round, in
    seconds."""

    SIZE = 64 << 10

    def __init__(self, path):
        self.path = path
        self.file = None
        self.memory = files.aligned(self.SIZE)
        self.longest = multiprocessing.Value("d", 0.0)
        self.load = guest.Load(self.round)

    def round(self, number):
        if self.file is None:
            self.file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_DIRECT)
        piece = next(files.content(number, self.SIZE))
        began = time.monotonic()
        self.memory[:] = piece
        assert os.pwrite(self.file, self.memory, 0) == self.SIZE
        self.memory[:] = bytes(self.SIZE)
        assert os.preadv(self.file, [self.memory], 0) == self.SIZE
        assert self.memory[:] == piece, files.difference(self.memory, piece, 0)
        self.longest.value = max(self.longest.value, time.monotonic() - began)


class Work:
    """What clients do all the time: two mounts with verified load, and a bench that verifies, each with a connection."""

    def __init__(self, checks):
        self.server = checks.server
        self.report = checks.report
        self.direct = checks.mount("cache=none")
        self.cached = checks.mount(where="/mnt/other")
        self.behind = checks.behind

    def __enter__(self):
        direct, cached = self.direct.__enter__(), self.cached.__enter__()
        self.pulse = Pulse(direct / "pulse")
        self.loads = {"fio": guest.Load(lambda _: files.fio(direct, "direct", "--size=1M", "--bsrange=4k-256k", "--blockalign=4k",
                                                            "--direct=1", "--verify_backlog=16"), 0.5),
                      "files": guest.Load(lambda number: files.size(cached, self.behind, (1 << 20) + 77, number, number % 2 == 1),
                                          0.5),
                      "pulse": self.pulse.load}
        self.bench = self.start_bench()
        try:
            smbd_server.wait_for("all clients are connected", self.all_connected, 120)
        except BaseException as error:
            self.__exit__(type(error))
            raise
        return self

    def __exit__(self, kind, *more):
        smbd_server.kill(self.bench)
        for name, load in self.loads.items():
            load.stop(120)
            self.report.fact(f"rounds of {name}", len(load.done))
            assert kind or load.done and not load.errors, f"{name}: {len(load.done)} rounds, {load.errors}"
        self.cached.__exit__(kind, *more)
        self.direct.__exit__(kind, *more)

    def start_bench(self):
        """Starts a bench that runs for longer than this test. It ends with the first error, or the first wrong byte."""
        server = self.server
        command = [server.programs / "smbdirectctl", "bench", "--user", f"{server.user}%{smbd_server.PASSWORD}", "--control",
                   server.control, "--transport", "smbdirect", "--fabric", "software", "--address", f"{server.address}:5445",
                   "--size", "256K", "--depth", "2", "--rounds", "1000", "--file-size", "1M", "--verify",
                   "--timeout", "300", f"//{server.address}/share"]
        return server.start_program("bench", command)

    def all_connected(self):
        self.check_bench()
        return len(self.server.status()["connections"]) == CONNECTIONS

    def check_bench(self):
        assert self.bench.poll() is None, "bench ended: " + (self.server.root / "log/bench").read_text()

    def through(self, name, action):
        """Does something to smbdirectd that must not end a connection, and checks that."""
        self.pulse.longest.value = 0.0
        before, began = self.server.status(), time.monotonic()
        action()
        done = time.monotonic() - began
        after, ended = self.server.status(), time.monotonic()
        still = ended - began - aged(before, after)
        self.pulse.load.wait_for_more(2, 120)
        self.report.fact(name, f"{done:.2f} s; the device's clock stood still for {still:.2f} s; the longest WRITE and READ of "
                         f"{Pulse.SIZE >> 10} KiB took {self.pulse.longest.value:.2f} s")
        smbd_server.wait_for("all connections move data", lambda: self.all_move(after), 120)
        self.check_bench()
        assert not any(load.errors for load in self.loads.values()), {name: load.errors for name, load in self.loads.items()}

    def all_move(self, before):
        """Returns whether each connection has moved file data since then."""
        old = {connection["peer"]: moved(connection) for connection in before["connections"]}
        return all(moved(connection) > old[connection["peer"]] for connection in self.server.status()["connections"])


def moved(connection):
    return connection["rdma_read_bytes"] + connection["rdma_write_bytes"]


def aged(before, after):
    """Checks that the same connections belong to the same processes. Returns by how many seconds they have aged."""
    def named(status, kind, *members):
        # The command that asks for the status is an observer.
        return sorted(tuple(one[member] for member in members) for one in status[kind] if one.get("role") != "observer")

    for kind, *members in (("connections", "id", "peer", "worker", "pid"), ("processes", "id", "pid", "role")):
        old, new = named(before, kind, *members), named(after, kind, *members)
        assert old == new, f"{kind}: {old} before, {new} after"
    ages = []
    for connection in after["connections"]:
        old = next(one for one in before["connections"] if one["peer"] == connection["peer"])
        assert moved(connection) >= moved(old), f"{old} before, {connection} after"
        ages.append(connection["age_seconds"] - old["age_seconds"])
    assert min(ages) >= 0, ages
    return max(ages)


def no_reconnects():
    """Checks that the kernel's client has not connected again."""
    stats = pathlib.Path("/proc/fs/cifs/Stats").read_text()
    counted = re.search(r"(\d+) session (\d+) share reconnects", stats)
    assert counted and counted.groups() == ("0", "0"), stats


def restarts(work, server):
    for number in range(1, RESTARTS + 1):
        work.through(f"restart {number}", server.restart_device)
    log = server.log()
    continued = log.count(f"continues {CONNECTIONS} connections")
    assert continued == RESTARTS, f"{continued} times {CONNECTIONS} connections in the log: {log[-3000:]}"
    no_reconnects()


def main():
    options = client.arguments().parse_args(["software", *sys.argv[1:]])
    server = Managed(options)
    report = guest.Report(f"restarts of smbdirectd under the kernel's client, Linux {os.uname().release}", options.only,
                          lambda: print(server.status(check=False), server.log()[-3000:]), options.limit, options.skip)
    kernel = guest.Kernel()
    try:
        guest.add_rdma("siw")
        server.start()
        with Work(client.Client(options, server, report, kernel)) as work:
            report.check(f"{RESTARTS} restarts under load", restarts, work, server)
        report.check("the kernel has no complaints", kernel.check)
        report.check("orderly end", server.stop)
    finally:
        smbd_server.end_children()
        guest.run("cp", "-r", server.root / "log", guest.OUTSIDE / "server-log", check=False)
        report.write()


if __name__ == "__main__":
    main()
