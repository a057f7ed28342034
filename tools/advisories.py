#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Makes tests/repository/advisories.txt: the advisories in RustSec's database about the crates in our lock files.

tools/advisories.py REPOSITORY: a clone of https://github.com/rustsec/advisory-db, which tests cannot reach. Run it now
and then, and when you add a crate; tests/repository/advisories.rs compares the lock files with what it wrote.
"""
import pathlib
import re
import subprocess
import sys
import tomllib

ROOT = pathlib.Path(__file__).resolve().parents[1]
LOCKS = ["Cargo.lock", "fuzz/Cargo.lock", "tests/smb-rs/Cargo.lock"]


def git(*arguments):
    return subprocess.check_output(["git", "-C", sys.argv[1], *arguments], text=True)


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    names = set()
    for lock in LOCKS:
        with open(ROOT / lock, "rb") as file:
            names |= {package["name"] for package in tomllib.load(file)["package"] if "source" in package}
    lines = []
    for path in git("ls-tree", "-r", "--name-only", "HEAD", "crates").split():
        if path.split("/")[1] not in names:
            continue
        advisory = tomllib.loads(re.search(r"```toml\n(.*?)```", git("show", f"HEAD:{path}"), re.S)[1])
        about, versions = advisory["advisory"], advisory.get("versions", {})
        # "unmaintained", "notice": no version fixes these.
        if "withdrawn" in about or about.get("informational") in ("unmaintained", "notice"):
            continue
        good = versions.get("patched", []) + versions.get("unaffected", [])
        lines.append(f"{about['id']} {about['package']}: {' || '.join(good)}")
    date = git("log", "-1", "--format=%cs").strip()
    text = [f"# Advisories of RustSec for crates of our lock files, as of {date}, with the versions that are good.",
            "# Made by tools/advisories.py from https://github.com/rustsec/advisory-db (CC0-1.0).", *sorted(lines)]
    (ROOT / "tests/repository/advisories.txt").write_text("\n".join(text) + "\n")
    print(f"{len(names)} crates, {len(lines)} advisories")


if __name__ == "__main__":
    main()
