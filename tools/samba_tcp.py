#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs a few suites of smbtorture over TCP against the smbd of a build tree, without SMB Direct.

    tools/samba_tcp.py TREE SMBTORTURE

`tools/samba.sh check` does this after each patch, so the suites are short and cover what the patches change: sending
and receiving, compounds, READ and WRITE, closing files, breaks that wait for acknowledgements, and connections that one
smbd passes to another.
"""

import pathlib
import re
import subprocess
import sys
import tempfile

from smbd_server import PASSWORD, Server, end_children, end_in_order

SUITES = ["smb2.connect", "smb2.tcon", "smb2.rw", "smb2.read", "smb2.compound", "smb2.lock", "smb2.fileid",
          "smb2.oplock.batch1", "smb2.multichannel.generic", "smb2.multichannel.oplocks.test1"]
SETTINGS = ["workgroup = TORTURE", 'interfaces = "lo;speed=10000000000,capability=RSS"', "bind interfaces only = yes",
            "smbd:FSCTL_SMBTORTURE = yes", "kernel oplocks = no", "store dos attributes = yes"]
SHARE = ["vfs objects = acl_xattr streams_xattr", "posix locking = no", "kernel share modes = no"]
RESULT = re.compile(r"^(success|failure|error|skip): (.*?)(?: \[)?$", re.MULTILINE)
TROUBLE = re.compile(r"PANIC|INTERNAL ERROR|smb_panic")
SECONDS = 120


class TcpServer(Server):
    """An smbd without a device."""

    def configuration(self):
        lines = super().configuration().splitlines(keepends=True)
        return "".join(line for line in lines if not line.startswith("smb direct"))

    def start(self):
        self.prepare()
        self.start_smbd()

    def wait_for_listener(self):
        pass


def run(server, smbtorture, suite):
    """Runs a suite. Returns smbtorture's output, and the names of the tests that passed and of those that did not."""
    command = [smbtorture, "//127.0.0.1/share", "-p", str(server.ports["tcp"]),
               "-U", f"{server.user}%{PASSWORD}", "-s", server.config, "--target=samba3",
               "--option=torture:progress=no", suite]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
                          timeout=SECONDS, check=False)
    results = RESULT.findall(done.stdout)
    good = [name for result, name in results if result == "success"]
    bad = [name for result, name in results if result in ("failure", "error")]
    if done.returncode and not bad:
        bad = [suite]
    return done.stdout, good, bad


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    end_in_order()
    samba, smbtorture = (pathlib.Path(path).resolve() for path in sys.argv[1:])
    passed, failed = 0, []
    # smbd's user must be able to enter the directory.
    with tempfile.TemporaryDirectory(prefix="samba-tcp-") as directory:
        root = pathlib.Path(directory)
        root.chmod(0o755)
        server = TcpServer(root, samba, samba / "bin", {"share": SHARE}, SETTINGS)
        try:
            server.start()
            for suite in SUITES:
                said, good, bad = run(server, smbtorture, suite)
                passed += len(good)
                if bad or not good:
                    failed += bad or [f"{suite}: no test ran"]
                    print(said[-4000:])
            said = "".join(log.read_text(errors="replace") for log in (root / "log").iterdir() if log.is_file())
            if TROUBLE.search(said):
                failed.append("smbd panicked")
                print(said[-4000:])
        finally:
            server.stop()
            end_children()
    print(f"{passed} tests passed over TCP, {len(failed)} failed" + "".join(f"\n   {name}" for name in failed))
    sys.exit(1 if failed else 0)


main()
