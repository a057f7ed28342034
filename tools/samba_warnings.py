#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Compiles each C file of Samba that the patches touch as Samba's developers do, with warnings as errors.

    tools/samba_warnings.py [--without] TREE PATCH...

TREE must have been built with the patches (`tools/samba.sh build`). This uses its compile commands, adds the warnings
of `./configure --enable-developer` (buildtools/wafsamba/samba_autoconf.py), and writes nothing into the tree. The
objects are thrown away; with ccache, an unchanged file takes no time.

With --without, it compiles the files as if Samba were configured without --with-smbdirect, and leaves out files that
only this option builds.
"""

import concurrent.futures
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

# Some warnings need what only the optimizer finds out. DEVELOPER forbids functions that Samba wraps, such as malloc().
WARNINGS = """-g -O2 -DDEVELOPER -Wall -Wshadow -Wmissing-prototypes -Wmissing-field-initializers -Wformat-overflow=2 -Wcast-align
    -Wcast-qual -fno-common -Wstrict-prototypes -Wwrite-strings -Wimplicit-function-declaration -Wimplicit-int
    -Wpointer-arith -Wdeclaration-after-statement -Wreturn-type -Wuninitialized -Wimplicit-fallthrough
    -Wstrict-overflow=2 -Wold-style-definition -Wformat=2 -Wno-format-y2k -Wno-format-zero-length -Wformat-security
    -Werror -Wno-error=deprecated-declarations -Wno-error=tautological-compare -Wno-error=cast-align""".split()


def touched(patches):
    """Returns the C files that the patches change or add."""
    names = set()
    for patch in patches:
        names |= set(re.findall(r"^\+\+\+ b/(\S+\.c)$", pathlib.Path(patch).read_text(), re.MULTILINE))
    return names


def commands(tree, names):
    """Returns the command that compiles each file: the first one, if several programs use the file."""
    objects = tree / "bin/default"
    found = {}
    for entry in json.loads((objects / "compile_commands.json").read_text()):
        name = os.path.relpath(os.path.normpath(objects / entry["file"]), tree)
        if name in names:
            found.setdefault(name, entry)
    return found


def without_option(tree, directory):
    """Makes a directory with the config.h that a tree would have if it were configured without the option."""
    text = (tree / "bin/default/include/config.h").read_text()
    changed = re.sub(r"^#define WITH_SMBDIRECT .*$", "", text, flags=re.MULTILINE)
    if changed == text:
        sys.exit(f"{tree} is configured without --with-smbdirect, or its config.h is elsewhere")
    path = pathlib.Path(directory) / "include"
    path.mkdir()
    (path / "config.h").write_text(changed)
    return path


def compile_strictly(entry, output, include=None):
    arguments = entry["arguments"]
    if "-o" in arguments:
        at = arguments.index("-o")
        arguments = arguments[:at] + arguments[at + 2:]
    arguments = [one for one in arguments if not re.fullmatch(r"-o\S+\.o", one)]
    if include:
        first = next(at for at, one in enumerate(arguments) if one.startswith("-I"))
        arguments = [*arguments[:first], f"-I{include}", *arguments[first:]]
    done = subprocess.run([*arguments, *WARNINGS, "-o", output], cwd=entry["directory"], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, check=False)
    return done.returncode, done.stdout


def main():
    without = sys.argv[1:2] == ["--without"]
    tree, *patches = sys.argv[2 if without else 1:]
    tree = pathlib.Path(tree).resolve()
    names = touched(patches)
    if without:
        names = {name for name in names if not name.startswith("source3/smbd/smb2_smbdirect")}
    known = commands(tree, names)
    missing, failed = sorted(names - set(known)), 0
    with tempfile.TemporaryDirectory() as directory, concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        include = without_option(tree, directory) if without else None
        jobs = {name: pool.submit(compile_strictly, entry, f"{directory}/{number}.o", include)
                for number, (name, entry) in enumerate(sorted(known.items()))}
        for name, job in jobs.items():
            status, text = job.result()
            if status:
                failed += 1
                print(f"{name}\n{text}")
    if missing:
        print("not built in this tree, so not checked:  " + ", ".join(missing))
    print(f"{len(known)} files compiled as Samba's developers compile them{', without the option' if without else ''}: "
          f"{failed or 'none'} with warnings")
    sys.exit(1 if failed or missing else 0)


main()
