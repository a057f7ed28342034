# SPDX-License-Identifier: GPL-2.0-or-later
"""Lets a module's allocations and copies fail, in a kernel that can do so (CONFIG_FAULT_INJECTION)."""

import pathlib

DEBUG = pathlib.Path("/sys/kernel/debug")
# One allocation or copy in so many fails.
ONE_IN = 20
# How many may fail, which is more than will.
MOST = 10_000_000
KINDS = {"failslab": {"ignore-gfp-wait": "N"}, "fail_page_alloc": {"ignore-gfp-wait": "N", "ignore-gfp-highmem": "N", "min-order": "0"},
         "fail_usercopy": {}}


class Injected:
    """While this is entered, what the functions of a module ask for fails at random. The kernel never lets an allocation
    fail that says that it must not."""

    def __init__(self, module):
        self.module = module
        # How many of each kind have failed.
        self.failed = {}

    @staticmethod
    def is_possible():
        return all((DEBUG / kind / "require-start").exists() for kind in KINDS)

    def code(self):
        """Returns the addresses of the module's first and last function."""
        found = [int(line.split()[0], 16) for line in open("/proc/kallsyms")
                 if line.endswith(f"[{self.module}]\n") and line.split()[1] in "tT"]
        assert found and min(found) > 0, "the functions of the module have no addresses"
        return min(found), max(found)

    def __enter__(self):
        start, last = self.code()
        for kind, more in KINDS.items():
            settings = {"probability": 100 // ONE_IN, "interval": 1, "times": MOST, "space": 0, "verbose": 0, "task-filter": "N",
                        "require-start": hex(start), "require-end": hex(last + 1), "stacktrace-depth": 24, **more}
            for name, value in settings.items():
                (DEBUG / kind / name).write_text(str(value))
        return self

    def __exit__(self, *_):
        self.failed = {kind: MOST - int((DEBUG / kind / "times").read_text()) for kind in KINDS}
        for kind in KINDS:
            (DEBUG / kind / "probability").write_text("0")
