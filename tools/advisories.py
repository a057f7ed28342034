#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Makes tests/repository/advisories.txt: RustSec's advisories about the crates in our lock files.

tools/advisories.py [CLONE] reads a clone of the git repository rustsec/advisory-db. Without an argument, it takes the
clone that cargo-audit or cargo-deny keeps below the cargo home: `cargo audit` and `cargo deny check advisories` fetch
it or bring it up to date.

Run it before a release, when you add a crate, and when the test warns. tests/repository/advisories.rs compares the lock
files with the result, and needs neither the clone nor a network.
"""
import os
import pathlib
import re
import subprocess
import sys
import textwrap
import tomllib

ROOT = pathlib.Path(__file__).resolve().parents[1]
LOCKS = ["Cargo.lock", "fuzz/Cargo.lock", "tests/smb-rs/Cargo.lock"]
HEAD = """\
# RustSec's advisories about the crates in our lock files, as of the date below. Made by tools/advisories.py.
# Each line has an identifier, a crate, and the ranges of versions without the fault. No range: no version is good.
# Left out: withdrawn advisories, and those that say only that a crate is unmaintained, or give a mere notice.
# Source: commit {commit} of the git repository rustsec/advisory-db (CC0-1.0).
"""


def clone():
    """Returns the clone to read: the one that was named, or the newest of those that other tools made."""
    if len(sys.argv) > 1:
        return sys.argv[1]
    home = pathlib.Path(os.environ.get("CARGO_HOME", pathlib.Path.home() / ".cargo"))
    found = [path for path in [home / "advisory-db", *home.glob("advisory-dbs/*")] if (path / ".git").exists()]
    if not found:
        sys.exit(f"no clone of the advisory database below {home}: run `cargo audit` or `cargo deny check advisories` "
                 "first, or name a clone: tools/advisories.py CLONE")
    return max(found, key=lambda path: int(git(path, "log", "-1", "--format=%ct")))


def git(repository, *arguments):
    return subprocess.check_output(["git", "-C", repository, *arguments], text=True)


def main():
    if len(sys.argv) > 2 or sys.argv[1:2] in (["-h"], ["--help"]):
        sys.exit(__doc__)
    repository = clone()
    names = set()
    for lock in LOCKS:
        with open(ROOT / lock, "rb") as file:
            names |= {package["name"] for package in tomllib.load(file)["package"] if "source" in package}
    lines = []
    paths = git(repository, "ls-tree", "-r", "--name-only", "HEAD", "crates").split()
    if not paths:
        sys.exit(f"{repository} has no advisories about crates: it is not a clone of rustsec/advisory-db")
    for path in paths:
        if path.split("/")[1] not in names:
            continue
        advisory = tomllib.loads(re.search(r"```toml\n(.*?)```", git(repository, "show", f"HEAD:{path}"), re.S)[1])
        about, versions = advisory["advisory"], advisory.get("versions", {})
        # No version fixes these: "unmaintained" and "notice".
        if "withdrawn" in about or about.get("informational") in ("unmaintained", "notice"):
            continue
        good = versions.get("patched", []) + versions.get("unaffected", [])
        lines.append(f"{about['id']} {about['package']}: {' || '.join(good)}".rstrip())
    commit, date = git(repository, "log", "-1", "--format=%h %cs", "--abbrev=12").split()
    crates = textwrap.wrap(" ".join(sorted(names)), 112, break_on_hyphens=False)
    text = [f"date {date}", *(f"crates {line}" for line in crates), *sorted(lines)]
    (ROOT / "tests/repository/advisories.txt").write_text(HEAD.format(commit=commit) + "\n".join(text) + "\n")
    print(f"{len(names)} crates, {len(lines)} advisories, database of {date}")


if __name__ == "__main__":
    main()
