#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Compiles each C file of Samba that the patches touch as Samba's developers do, with warnings as errors.

    tools/samba_warnings.py TREE PATCH...

TREE was built with the patches (`tools/samba.sh build`); this uses its compile commands, adds the warnings of
`./configure --enable-developer` (buildtools/wafsamba/samba_autoconf.py), and writes nothing into it. The objects are
thrown away; with ccache an unchanged file takes no time.
"""

import concurrent.futures
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

WARNINGS = """-g -Wall -Wshadow -Wmissing-prototypes -Wmissing-field-initializers -Wformat-overflow=2 -Wcast-align
    -Wcast-qual -fno-common -Wstrict-prototypes -Wwrite-strings -Wimplicit-function-declaration -Wimplicit-int
    -Wpointer-arith -Wdeclaration-after-statement -Wreturn-type -Wuninitialized -Wimplicit-fallthrough
    -Wstrict-overflow=2 -Wold-style-definition -Wformat=2 -Wno-format-y2k -Wno-format-zero-length -Wformat-security
    -Werror -Wno-error=deprecated-declarations -Wno-error=tautological-compare -Wno-error=cast-align""".split()


def touched(patches):
    """The C files that the patches change or add."""
    names = set()
    for patch in patches:
        names |= set(re.findall(r"^\+\+\+ b/(\S+\.c)$", pathlib.Path(patch).read_text(), re.MULTILINE))
    return names


def commands(tree, names):
    """The command that compiles each file; the first one, if several programs use the file."""
    objects = tree / "bin/default"
    found = {}
    for entry in json.loads((objects / "compile_commands.json").read_text()):
        name = os.path.relpath(os.path.normpath(objects / entry["file"]), tree)
        if name in names:
            found.setdefault(name, entry)
    return found


def compile_strictly(entry, output):
    arguments = entry["arguments"]
    if "-o" in arguments:
        at = arguments.index("-o")
        arguments = arguments[:at] + arguments[at + 2:]
    arguments = [one for one in arguments if not re.fullmatch(r"-o\S+\.o", one)]
    done = subprocess.run([*arguments, *WARNINGS, "-o", output], cwd=entry["directory"], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, check=False)
    return done.returncode, done.stdout


def main():
    tree = pathlib.Path(sys.argv[1]).resolve()
    names = touched(sys.argv[2:])
    known = commands(tree, names)
    missing, failed = sorted(names - set(known)), 0
    with tempfile.TemporaryDirectory() as directory, concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = {name: pool.submit(compile_strictly, entry, f"{directory}/{number}.o")
                for number, (name, entry) in enumerate(sorted(known.items()))}
        for name, job in jobs.items():
            status, text = job.result()
            if status:
                failed += 1
                print(f"{name}\n{text}")
    if missing:
        print("not built in this tree, so not checked:  " + ", ".join(missing))
    print(f"{len(known)} files compiled as Samba's developers compile them: {failed or 'none'} with warnings")
    sys.exit(1 if failed or missing else 0)


main()
