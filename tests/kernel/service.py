#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""In a guest with systemd (GUEST_SYSTEM of guest.sh): installs smbdirectd's package, and restarts, reloads and upgrades it
while the kernel's client and `smbdirectctl bench` work on software iWARP. No connection may end, and no byte may be wrong.
"""

import argparse
import os
import pathlib
import sys
import tempfile

import client
import files
import guest
from guest import smbd_server
from restart import CONNECTIONS, RESTARTS, Work, no_reconnects

# The files of the machine that runs the guest: smbd comes from there.
MACHINE = pathlib.Path("/machine")
CONFIGURATION = pathlib.Path("/etc/smbdirect/smbdirectd.toml")
UNIT = "smbdirectd.service"
MIB = 1 << 20


def apt(*arguments):
    return guest.run("apt-get", "-q", "-y", "--no-install-recommends", *arguments,
                     env=dict(os.environ, DEBIAN_FRONTEND="noninteractive"), timeout=600)


def shown(name):
    """Returns a property of the unit."""
    return guest.run("systemctl", "show", "--value", "--property", name, UNIT).strip()


def version():
    return guest.run("dpkg-query", "--show", "--showformat", "${Version}", "smbdirectd")


class Service(client.Server):
    """The patched smbd of the machine, and smbdirectd of the package, as a service."""

    def __init__(self, options):
        super().__init__(options)
        self.control = pathlib.Path("/run/smbdirect/control")
        self.run_by = {name: ["chroot", MACHINE] for name in ("smbd", "smbpasswd")}

    def prepare(self):
        for name in ("proc", "dev", "run", "mnt/share"):
            (MACHINE / name).mkdir(parents=True, exist_ok=True)
            guest.run("mount", "--rbind", f"/{name}", MACHINE / name)
        # smbd needs a directory for temporary files, which it looks for where it is.
        temporary = MACHINE / tempfile.gettempdir().lstrip("/")
        temporary.mkdir(exist_ok=True)
        temporary.chmod(0o1777)
        super().prepare()

    def start_device(self):
        CONFIGURATION.write_text((self.root / "smbdirectd.toml").read_text())
        guest.run("systemctl", "restart", UNIT)
        self.check_fabric()

    def stop(self):
        super().stop()
        guest.run("systemctl", "stop", UNIT)

    def log(self):
        return guest.run("journalctl", "--unit", UNIT, "--output", "cat")

    def continued(self):
        """Returns how many starts have continued all connections."""
        return self.log().count(f"continues {CONNECTIONS} connections")


def sources(packages, number):
    for path in pathlib.Path("/etc/apt/sources.list.d").iterdir():
        path.unlink()
    pathlib.Path("/etc/apt/sources.list").write_text(f"deb [trusted=yes] copy:{packages}/{number} ./\n")
    apt("update")


def install(packages):
    sources(packages, 1)
    apt("install", "smbdirectd")
    assert version().endswith("-1"), version()
    assert shown("ActiveState") == "active", guest.run("systemctl", "status", UNIT, check=False)
    assert shown("FileDescriptorStoreMax") == "4096", shown("FileDescriptorStoreMax")


def restarts(work, server):
    for number in range(1, RESTARTS + 1):
        work.through(f"restart {number}", lambda: guest.run("systemctl", "restart", UNIT))
    assert server.continued() == RESTARTS, server.log()[-3000:]


def reload(work, server):
    CONFIGURATION.write_text("max_connections = 77\n" + CONFIGURATION.read_text())
    process = shown("MainPID")
    work.through("reload", lambda: guest.run("systemctl", "reload", UNIT))
    smbd_server.wait_for("the new value is in effect", lambda: "max_connections: 4096 -> 77" in server.log())
    assert shown("MainPID") == process


def upgrade(work, server, packages):
    before, process = server.continued(), shown("MainPID")
    sources(packages, 2)
    work.through("apt upgrade", lambda: apt("upgrade"))
    assert version().endswith("-2"), version()
    assert shown("MainPID") != process
    # The new daemon runs the program of the new package.
    assert os.readlink(f"/proc/{shown('MainPID')}/exe") == "/usr/sbin/smbdirectd"
    assert server.continued() == before + 1, server.log()[-3000:]
    assert "max_connections = 77" in CONFIGURATION.read_text()


def stop_and_start(checks):
    """Stops the service, which ends connections, and starts it: the client connects again by itself."""
    server = checks.server
    continued = server.continued()
    with checks.mount("echo_interval=5") as mounted:
        files.size(mounted, checks.behind, MIB, 1, True)
        guest.run("systemctl", "stop", UNIT)
        assert shown("NFileDescriptorStore") == "0", shown("NFileDescriptorStore")
        guest.run("systemctl", "start", UNIT)
        server.wait_for_listener()
        assert server.continued() == continued, server.log()[-3000:]
        files.size(mounted, checks.behind, MIB, 2, True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samba", type=pathlib.Path, required=True, help="Samba's build tree, on the machine")
    parser.add_argument("--packages", type=pathlib.Path, required=True,
                        help="a directory with two repositories of the packages, 1 and 2; 2 has newer ones")
    options = parser.parse_args(sys.argv[1:])
    options.fabric, options.programs = "software", pathlib.Path("/usr/sbin")
    server = Service(options)
    systemd = guest.run("systemctl", "--version").split()[1]
    report = guest.Report(f"smbdirectd under systemd {systemd} and the kernel's client, Linux {os.uname().release}", "",
                          lambda: print(server.status(check=False), server.log()[-5000:]), 600)
    kernel = guest.Kernel()
    try:
        guest.add_rdma("siw")
        report.check("apt installs and starts smbdirectd", install, options.packages)
        server.start()
        checks = client.Client(options, server, report, kernel)
        with Work(checks) as work:
            report.check(f"{RESTARTS} restarts under load", restarts, work, server)
            report.check("reload under load", reload, work, server)
            report.check("apt upgrade under load", upgrade, work, server, options.packages)
            report.check("the client has not connected again", no_reconnects)
        report.check("the kernel has no complaints", kernel.check)
        report.check("stop and start", stop_and_start, checks)
        report.check("the kernel complains only about lost connections", kernel.check, client.BROKEN)
        report.check("orderly end", server.stop)
    finally:
        smbd_server.end_children()
        guest.run("cp", "-r", server.root / "log", guest.OUTSIDE / "server-log", check=False)
        (guest.OUTSIDE / "journal").write_text(guest.run("journalctl", "--output", "short-precise"))
        report.write()


if __name__ == "__main__":
    main()
