#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""In the guest: tests the kernel's SMB client with the patched smbd over SMB Direct.

    client.py software        smbdirectd on its own iWARP, the client on siw
    client.py siw             smbdirectd on verbs, both on siw
    client.py rxe             smbdirectd on verbs, both on rxe (RoCE)
    client.py rxe --module smbdirectk.ko
                              /dev/smbdirect instead of smbdirectd, on siw or rxe
    client.py ksmbd           the kernel's own server instead, to see which side is at fault
    client.py outside         a server outside of the guest, at 10.0.2.2 (tests/kernel/outside.py starts it)
"""

import argparse
import errno
import os
import pathlib
import re
import signal
import sys
import time

import files
import guest
from guest import MEMORY, ClientHangs, Kernel, Load, Mount, Report

MIB = 1 << 20
# A client that signs or seals moves no data by RDMA. With small requests, a sealing client's messages fit into its
# limits; `sealed` tests messages that do not.
WAYS = {"plain": [], "sign": ["sign"], "seal": ["seal", "rsize=131072", "wsize=131072"]}

# Two ways to make a mount seal although the client chooses the request sizes as for a mount without sealing.
SEALED = {"seal": ("share", ["seal"]), "the share's `smb encrypt = required`": ("sealed", [])}

# The kernel's messages when a test breaks a connection, or when a server is away for a while.
BROKEN = [r"send_done|recv_done|register_mr_done|get_mr|has not responded", r"Send error", r"reconnect", r"smbd_", r"sending smb", r"Close unmatched|closing unmatched",
          r"No task to wake", r"cifs_(read|write)", r"RDMA|rdma", r"Unable to", r"Error -\d+ (sending|on)", r"Verify user has"]

# The messages of the kernel's client when it reads the rest of a large folio that contains data not written yet. The
# client reads all of that rest into one page, which it throws away, and then checks the signature of that page
# (docs/interop.md).
GAP_FILLED = [r"sign fail cmd 0x8 ", r"SMB signature verification returned error = -13"]


class Server(guest.smbd_server.Server):
    """The patched smbd and smbdirectd in the guest, with shares in its memory: the same files, with and without
    encryption."""

    SHARES = {"share": [], "sealed": ["smb encrypt = required"]}

    def __init__(self, options):
        self.files = MEMORY / "files"
        self.address = guest.ADDRESS["rxe" if options.fabric == "rxe" else "siw"]
        self.fabric = "software" if options.fabric == "software" else "verbs"
        # smbdirectd finds an RDMA device and uses it without any configuration.
        listen, device = ([f"{self.address}:5445"], 'fabric = "software"\n') if self.fabric == "software" else ([], "")
        super().__init__(MEMORY / "server", options.samba, options.programs, self.SHARES, ["interfaces = lo"], device,
                         listen, 445)

    def start_device(self):
        super().start_device()
        self.check_fabric()

    def check_fabric(self):
        fabrics = {address["address"]: address["fabric"] for address in self.status()["addresses"]}
        assert fabrics.get(f"{self.address}:5445") == self.fabric, fabrics

    def path(self, share):
        return self.files

    def traffic(self):
        """Returns the totals of the client's connections."""
        status = self.status()
        names = ("rdma_read_bytes", "rdma_write_bytes", "inline_bytes_in", "inline_bytes_out", "invalidations_out")
        return {name: sum(connection[name] for connection in status["connections"]) for name in names}

    def workers(self):
        return [process["pid"] for process in self.status()["processes"] if process["role"] == "worker"]

    def kill(self, name):
        guest.smbd_server.kill(self.processes.pop(name))
        if name == "smbd":
            guest.smbd_server.wait_for("the children of smbd end", lambda: not self.children())
        else:
            self.control.unlink(missing_ok=True)

    def children(self):
        """Returns all remaining processes of smbd."""
        wanted = str(self.config).encode()
        found = []
        for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
            try:
                if wanted in path.read_bytes() and b"smbd" in path.read_bytes():
                    found.append(int(path.parent.name))
            except OSError:
                pass
        return found


class InKernel(Server):
    """The patched smbd on /dev/smbdirect, the device in the kernel."""

    def __init__(self, options):
        super().__init__(options)
        self.control = guest.Module.DEVICE
        self.module = guest.Module(options.module)

    def start_device(self):
        self.module.load()

    def stop(self):
        """Ends smbd and unloads the module, which says that nothing is left."""
        super().stop()
        if self.control.exists():
            print(f"          unloaded: {self.module.unload()}", flush=True)


class Ksmbd:
    """The kernel's own server, to see whether the client is at fault."""

    user = "daemon"

    def __init__(self, options):
        self.files = MEMORY / "files"
        self.address = guest.ADDRESS["siw"]
        self.tools = pathlib.Path(os.environ["KSMBD_TOOLS"])
        self.root = MEMORY / "ksmbd"
        self.config = self.root / "ksmbd.conf"

    def start(self):
        guest.load("ksmbd")
        self.root.mkdir(exist_ok=True)
        self.files.mkdir(exist_ok=True)
        self.files.chmod(0o777)
        self.config.write_text("[global]\nserver multi channel support = yes\nmap to guest = never\n"
                               f"[share]\npath = {self.files}\nread only = no\nforce user = root\nforce group = root\n")
        users = self.root / "users"
        users.unlink(missing_ok=True)
        guest.run(self.tools / "ksmbd.adduser", "-C", self.config, "-P", users, "-a", "-p", guest.smbd_server.PASSWORD, self.user)
        guest.run(self.tools / "ksmbd.mountd", "-C", self.config, "-P", users)
        guest.smbd_server.wait_for("ksmbd listens", lambda: guest.smbd_server.listens(445))

    def stop(self):
        guest.run(self.tools / "ksmbd.control", "-s")

    def status(self, check=True):
        return None


class Client:
    """The checks that one server needs."""

    def __init__(self, options, server, report, kernel):
        self.kernel = kernel
        self.options = options
        self.server = server
        self.report = report
        self.address = server.address if server else "10.0.2.2"
        self.user = server.user if server else "daemon"
        self.behind = server.files if server else None
        # In a short run, one fabric is enough for what does not depend on it.
        self.is_thorough = options.fabric == "software" or options.largest >= 64

    def mount(self, *options, where="/mnt/cifs", share="share"):
        return Mount(where, self.address, share, self.user, ",".join(["vers=3.1.1", "nosharesock", *options]))

    def dialects(self):
        """Checks that each dialect mounts, signs and seals, and moves data in the right way."""
        for number, version in enumerate(("3.0", "3.0.2", "3.1.1") if self.is_thorough else ("3.0.2", "3.1.1")):
            for way, options in WAYS.items():
                self.report.check(f"mount vers={version} {way}", self.dialect, number, version, way, options)

    def dialect(self, number, version, way, options):
        with self.mount(f"vers={version}", *options) as mounted:
            assert "RDMA" in guest.debug_data(), guest.debug_data()
            path = mounted / f"dialect-{version}-{way}"
            files.write(path, number, 3 * MIB + 17, False)
            if self.behind:
                files.compare(self.behind / path.name, number, 3 * MIB + 17)
            files.drop_caches()
            files.compare(path, number, 3 * MIB + 17)
            if self.server:
                self.check_traffic(version, way == "plain")

    def check_traffic(self, version, direct, size=3 * MIB):
        """Checks that at least `size` bytes went each way, by RDMA or not."""
        traffic = self.server.traffic()
        rdma = traffic["rdma_read_bytes"], traffic["rdma_write_bytes"]
        if direct:
            assert min(rdma) >= size, traffic
            assert max(traffic["inline_bytes_in"], traffic["inline_bytes_out"]) < MIB, traffic
            # SMB 3.0 has only channel 1.
            assert (traffic["invalidations_out"] > 0) == (version != "3.0"), (version, traffic)
        else:
            assert rdma == (0, 0), traffic
            assert min(traffic["inline_bytes_in"], traffic["inline_bytes_out"]) >= size, traffic

    def sealed(self, share, options):
        """Reads a file of the server, and writes another one, with the sizes that the mount chooses by itself."""
        size = 2 * MIB + 77
        path = self.behind / f"sealed-{share}"
        files.write(path, 5, size, False)
        with self.mount(*options, share=share) as mounted:
            files.compare(mounted / path.name, 5, size)
            # Without the cache, the client does not retry a READ that is too large to be answered: an error is right,
            # wrong bytes are not.
            try:
                files.compare(mounted / path.name, 5, size, True)
            except OSError as error:
                assert error.errno == errno.EINVAL, error
            files.write(mounted / f"written-{share}", 6, size, False)
            self.check_traffic("3.1.1", False, size)
        files.compare(self.behind / f"written-{share}", 6, size)

    def all(self):
        """Runs the checks of a file system."""
        check, largest, verify = self.report.check, self.options.largest, self.options.verify
        self.dialects()
        if self.server:
            for name, (share, options) in SEALED.items():
                check(f"default sizes, {name}", self.sealed, share, options)
        with self.mount() as mounted:
            for direct in (False, True):
                check(f"files of 0 B to {largest} MiB, {'direct' if direct else 'buffered'}",
                      files.sizes, mounted, self.behind, direct, largest * MIB)
            check("random offsets, each block verified (fio)", files.verify, mounted, verify)
            if self.behind:
                self.more(mounted)
        check("unmount and mount again", self.again)

    def more(self, mounted):
        """Runs the checks that look at the server, or at two mounts."""
        check = self.report.check
        check("any length at any offset, direct", files.odd_offsets, mounted, self.behind, True, 3 * MIB + 1, 300)
        # Buffered I/O may use memory in pieces that the client cannot register (docs/interop.md).
        with self.mount("sign", where="/mnt/other") as other:
            check("any length at any offset, buffered", self.odd_buffered, other)
        check("eight processes at once, each block verified (fio)", files.eight_processes, mounted,
              max(2, self.options.verify // 4))
        check("truncate", files.truncate, mounted, self.behind)
        with self.mount(where="/mnt/other") as other:
            check("locks and data of two mounts", files.locks, mounted, other)
        names = 10_000 if self.is_thorough else 1_000
        check(f"{names:,} names, rename, remove", files.names, mounted, self.behind, names)
        check("the device's counters", self.counters)
        if self.options.gigabyte:
            check("1 GiB", files.size, mounted, self.behind, 1 << 30, 99, False)

    def odd_buffered(self, mounted):
        self.kernel.check()
        files.odd_offsets(mounted, self.behind, False, 3 * MIB + 1, 300)
        self.kernel.check(GAP_FILLED)

    def counters(self):
        traffic = self.server.traffic()
        self.report.fact("traffic", traffic)
        at_least = self.options.largest * MIB
        assert traffic["rdma_read_bytes"] > at_least and traffic["rdma_write_bytes"] > at_least, traffic
        assert traffic["invalidations_out"] > 0, traffic

    def again(self):
        # Over rxe, any of these mounts may crash the client (docs/interop.md).
        for number in range(3 if self.options.fabric == "rxe" else 10):
            with self.mount() as mounted:
                (mounted / "again").write_bytes(b"%d" % number * 10_000)
            with self.mount() as mounted:
                assert (mounted / "again").read_bytes() == b"%d" % number * 10_000
        if self.server:
            guest.smbd_server.wait_for("the connections end", lambda: not self.server.status()["connections"])

    def failures(self):
        """Kills processes of the server, or removes its RDMA device, under load. Afterwards the mount works again, and
        synced data is there.

        If the client hangs because of its own bug (docs/interop.md), another mount is used instead.
        """
        with self.mount("echo_interval=5") as mounted:
            kills = [("worker", self.kill_worker), ("smbd", self.kill_smbd)]
            # The device in the kernel cannot be killed, but its RDMA device can go.
            kills += [("rdma", self.remove_rdma)] if self.options.module else [("smbdirectd", self.kill_device)]
            for name, kill in kills:
                what = "RDMA device is removed" if name == "rdma" else f"{name} is killed"
                self.report.check(f"{what} under load", self.failure, mounted, name, kill)

    def failure(self, mounted, name, kill):
        def path(directory, number):
            return directory / f"{name}-{number}"

        def compare(directory):
            for number in load.done:
                files.compare(path(directory, number), number, MIB)

        load = Load(lambda number: files.write(path(mounted, number), number, MIB, number % 2 == 0, 256 << 10))
        load.wait_for_more(3, 180)
        kill()
        if load.wait_for_more(3, 180, or_else=guest.client_hangs):
            load.stop(120)
            compare(self.behind)
            self.report.fact(f"files synced, and errors ({name} failed)", (len(load.done), load.errors))
            return
        # A client that hangs cannot tell whether the server serves again; a new client can.
        with self.mount(where="/mnt/other") as other:
            compare(other)
            files.write(path(other, "again"), 0, MIB, False)
        compare(self.behind)
        raise ClientHangs(f"{len(load.done)} files synced before {name} failed, and read by a new mount")

    def kill_worker(self):
        os.kill(self.server.workers()[0], signal.SIGKILL)

    def kill_smbd(self):
        self.server.kill("smbd")
        time.sleep(1)
        self.server.start_smbd()

    def kill_device(self):
        self.server.kill("smbdirectd")
        time.sleep(1)
        self.server.start_device()
        self.server.wait_for_listener()

    def remove_rdma(self):
        """Removes the RDMA device that carries all connections, and makes it again."""
        guest.run("rdma", "link", "delete", f"{self.options.fabric}0", timeout=60)
        assert not self.server.status()["connections"], self.server.status()
        time.sleep(1)
        guest.add_rdma(self.options.fabric)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fabric", choices=["software", "siw", "rxe", "outside", "ksmbd"])
    parser.add_argument("--samba", type=pathlib.Path, help="Samba's build tree")
    parser.add_argument("--programs", type=pathlib.Path, help="the directory that has smbdirectd and smbdirectctl")
    parser.add_argument("--module", type=pathlib.Path, help="smbdirectk.ko: use /dev/smbdirect instead of smbdirectd")
    parser.add_argument("--largest", type=int, default=64, help="size of the largest file in MiB (64)")
    parser.add_argument("--verify", type=int, default=16, help="MiB that fio verifies (16)")
    parser.add_argument("--failures", action="store_true", help="kill processes or remove the RDMA device instead")
    parser.add_argument("--only", default="", help="run only checks whose names match this regular expression")
    parser.add_argument("--skip", action="append", default=[], metavar="NAME", help="skip the check of this name")
    parser.add_argument("--limit", type=int, default=300, help="seconds that a check may take (300)")
    parser.add_argument("--gigabyte", action="store_true", help="also use a file of 1 GiB")
    return parser


def main():
    options = arguments().parse_args()
    if options.module and options.fabric not in ("siw", "rxe"):
        sys.exit("--module needs siw or rxe")
    server = {"outside": lambda _: None, "ksmbd": Ksmbd}.get(options.fabric, InKernel if options.module else Server)(options)

    def explain():
        print(guest.debug_data())
        if server:
            print(server.status(check=False))

    device = " and /dev/smbdirect" if options.module else ""
    report = Report(f"the kernel's client, {options.fabric}{device}, Linux {os.uname().release}", options.only, explain,
                    options.limit, options.skip, guest.FAULTS_OF_SIW if options.fabric == "siw" else guest.FAULTS)
    kernel = Kernel()
    try:
        guest.add_rdma("rxe" if options.fabric == "rxe" else "siw", "eth0" if options.fabric == "outside" else None)
        if server:
            server.start()
        client = Client(options, server, report, kernel)
        if options.failures:
            client.failures()
            report.check("the kernel complains only about lost connections", kernel.check, BROKEN)
        else:
            client.all()
            report.check("the kernel has no complaints", kernel.check)
        if server:
            report.check("orderly end", server.stop)
    finally:
        guest.smbd_server.end_children()
        if server:
            guest.run("cp", "-r", server.root / "log", guest.OUTSIDE / "server-log", check=False)
        report.write()


if __name__ == "__main__":
    main()
