#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Removes one check after the other from smbd, and verifies that the tests named in tests/mutations.toml then fail.

Builds Samba in a cache of its own for that, because an interrupted run leaves the source changed.
"""

import argparse
import fnmatch
import os
import pathlib
import re
import subprocess
import sys
import time
import tomllib

from smbd_server import ROOT

MUTATIONS = ROOT / "tests/mutations.toml"
SUITE = "ms_transform"
TARGETS = ("smbd/smbd", "smbstatus", "smbpasswd", "testparm", "smbcontrol")
CARGO = ("cargo", "test", "--locked", "--release", "--package", "instruments", "--test", "samba")
RESULT = re.compile(r"^test (\S+) \.\.\. (ok|FAILED)$", re.MULTILINE)


class Failed(Exception):
    """Why this run did not show what it should have shown."""


class Samba:
    """A build tree that may be changed."""

    def __init__(self):
        caches = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache"))
        self.environment = os.environ | {
            "XDG_CACHE_HOME": str(caches / "smbdirect/mutations"),
            "CCACHE_DIR": os.environ.get("CCACHE_DIR", str(caches / "smbdirect/ccache")),
        }
        # The build restores lib/smbdirect; the files of Samba are restored below.
        subprocess.run(["tools/samba.sh", "build"], cwd=ROOT, env=self.environment, check=True)
        path = subprocess.run(["tools/samba.sh", "path"], cwd=ROOT, env=self.environment, check=True,
                              capture_output=True, text=True)
        self.tree = pathlib.Path(path.stdout.strip())
        changed = sorted(self.tree.rglob("*.unmutated"))
        for saved in changed:
            saved.replace(saved.with_suffix(""))
        if changed:
            self.build()

    def build(self):
        """Builds the tree as it is."""
        run = subprocess.run(["tools/samba.sh", "waf", self.tree, *TARGETS], cwd=ROOT, env=self.environment,
                             capture_output=True, text=True, check=False)
        if run.returncode != 0:
            raise Failed(f"it does not build:\n{run.stdout}{run.stderr}")

    def change(self, edits):
        """Makes the edits of a mutation. Each old text must occur exactly once."""
        for edit in edits:
            file = self.tree / edit["file"]
            text = file.read_text()
            old, new = edit["old"].removeprefix("\n"), edit["new"].removeprefix("\n")
            if text.count(old) != 1:
                raise Failed(f"{edit['file']} contains this text {text.count(old)} times, not once: {old}")
            saved = file.with_name(file.name + ".unmutated")
            if not saved.exists():
                saved.write_text(text)
            file.write_text(text.replace(old, new))

    def restore(self, edits):
        """Undoes the edits. The files are then newer than what was built from them, so they are built again."""
        for edit in edits:
            file = self.tree / edit["file"]
            saved = file.with_name(file.name + ".unmutated")
            if saved.exists():
                file.write_text(saved.read_text())
                saved.unlink()


def cases(environment):
    """Returns all cases of the suite."""
    run = subprocess.run([*CARGO, "--", "--list", f"{SUITE}::"], cwd=ROOT, env=environment, check=True,
                         capture_output=True, text=True)
    return re.findall(rf"^{SUITE}::(\S+): test$", run.stdout, re.MULTILINE)


def results(environment, names):
    """Runs cases, and returns which of them passed."""
    run = subprocess.run([*CARGO, "--", "--exact", *(f"{SUITE}::{name}" for name in names)], cwd=ROOT, env=environment,
                         check=False, capture_output=True, text=True)
    found = {name.removeprefix(f"{SUITE}::"): result == "ok" for name, result in RESULT.findall(run.stdout)}
    if set(found) != set(names):
        raise Failed(f"not every case ran:\n{run.stdout}{run.stderr}")
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("only", nargs="*", help="mutations whose names contain one of these; otherwise all")
    options = parser.parse_args()
    mutations = tomllib.loads(MUTATIONS.read_text())["mutation"]
    try:
        samba = Samba()
        environment = os.environ | {"SMBDIRECT_SAMBA": str(samba.tree)}
        every = cases(environment)
        victims = [[case for case in every if any(fnmatch.fnmatchcase(case, pattern) for pattern in mutation["cases"])]
                   for mutation in mutations]
        missing = sorted(set(every) - {case for named in victims for case in named})
        if missing:
            raise Failed(f"{MUTATIONS.name} has no mutation for {', '.join(missing)}")
        unchanged = results(environment, every)
        if not all(unchanged.values()):
            raise Failed(f"these fail even without mutations: {[name for name, ok in unchanged.items() if not ok]}")
        print(f"{len(every)} cases pass")
        survived = []
        for mutation, named in zip(mutations, victims):
            if options.only and not any(text in mutation["name"] for text in options.only):
                continue
            if not named:
                raise Failed(f"{mutation['name']}: none of the cases that it names exists")
            started = time.monotonic()
            try:
                samba.change(mutation["edits"])
                samba.build()
                passed = [name for name, ok in results(environment, named).items() if ok]
            finally:
                samba.restore(mutation["edits"])
            print(f"{mutation['name']}: {len(named) - len(passed)} of {len(named)} cases fail, as they should"
                  f" ({time.monotonic() - started:.0f} s)", flush=True)
            survived += [f"{mutation['name']}: {name} still passes" for name in passed]
        samba.build()
        if survived:
            raise Failed("\n".join(survived))
    except Failed as failure:
        print(f"mutations.py: {failure}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
