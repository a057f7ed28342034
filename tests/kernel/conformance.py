#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""In the guest: runs the conformance suite of the fabrics on a software RDMA device: conformance.py siw|rxe PROGRAM"""

import os
import subprocess
import sys

import guest


def main():
    kind, program = sys.argv[1:]
    kernel = guest.Kernel()
    guest.add_rdma(kind)
    environment = dict(os.environ, SMBDIRECT_TEST_VERBS=guest.ADDRESS[kind])
    status = subprocess.run([program, "--test-threads=4"], env=environment).returncode
    kernel.check()
    sys.exit(status)


if __name__ == "__main__":
    main()
