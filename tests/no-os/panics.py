#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Compares the places at which a static library may panic with the places that panics.txt allows.

    panics.py LIBRARY ROOT LIST

Code that may panic leaves two traces in an object file: the source location that the message would name, and a call of
one of the panic functions of `core` and `alloc`. Both are read from the members of the library that come from this
crate and its dependencies, but not from `core` and `alloc`. The list has lines of three kinds:

    src/shm/ring.rs 2               this many places in a file of this crate
    alloc/src/vec/mod.rs            any number in a file of the library or of a dependency
    fn panic_bounds_check           a function that is called

A kernel oopses if this program panics, so the check fails for a place that is not in the list.
"""

import re
import struct
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

OURS = re.compile(r"(smbdirect|no_os|slotmap|thiserror|strum|zerocopy)-")
PANICS = re.compile(r"panic|handle_alloc_error|capacity_overflow|_fail(ed)?(_rt)?$|handle_error")
SHT_RELA, SHT_NOBITS = 4, 8
SHN_XINDEX, SHN_LORESERVE = 0xFFFF, 0xFF00

WHAT_TO_DO = """
A kernel would oops there. Use a checked access and a named error, or an argument that cannot be wrong. If nothing
that a peer or a process does can lead there, say why beside the place, and add it to tests/no-os/panics.txt."""


class Object:
    """A 64-bit little-endian ELF file that is not linked yet."""

    def __init__(self, path):
        self.data = path.read_bytes()
        if self.data[:6] != b"\x7fELF\x02\x01":
            raise ValueError(f"{path.name}: not a 64-bit little-endian ELF file")
        offset, = struct.unpack_from("<Q", self.data, 40)
        size, count, names = struct.unpack_from("<HHH", self.data, 58)
        first = self.section(offset)
        count, names = count or first[5], first[6] if names == SHN_XINDEX else names
        self.sections = [self.section(offset + n * size) for n in range(count)]
        self.names = self.sections[names]

    def section(self, offset):
        return struct.unpack_from("<IIQQQQIIQQ", self.data, offset)

    def text(self, table, offset):
        start = table[4] + offset
        return self.data[start : self.data.index(b"\0", start)].decode()

    def symbol(self, table, number):
        return struct.unpack_from("<IBBHQQ", self.data, table[4] + number * 24)

    def places(self):
        """Yields all `core::panic::Location`s: pointer and length of the file's name, line, column."""
        for relocations in self.sections:
            target = self.sections[relocations[7]] if relocations[1] == SHT_RELA else None
            if not target or not self.text(self.names, target[0]).startswith(".data.rel.ro"):
                continue
            symbols = self.sections[relocations[6]]
            for at in range(relocations[4], relocations[4] + relocations[5], 24):
                offset, info, addend = struct.unpack_from("<QQq", self.data, at)
                _, _, _, section, value, _ = self.symbol(symbols, info >> 32)
                if not 0 < section < SHN_LORESERVE or offset + 24 > target[5]:
                    continue
                if self.sections[section][1] == SHT_NOBITS:
                    continue
                length, line, column = struct.unpack_from("<QII", self.data, target[4] + offset + 8)
                start = self.sections[section][4] + value + addend
                name = self.data[start : start + length] if length < 4096 else b""
                if name.endswith(b".rs"):
                    yield name.decode(), line, column

    def calls(self):
        """Yields the names of undefined functions that panic."""
        for table in self.sections:
            if table[1] != 2:
                continue
            for number in range(table[5] // 24):
                name, _, _, section, _, _ = self.symbol(table, number)
                if section == 0 and name:
                    function = last_name(self.text(self.sections[table[6]], name))
                    if function and PANICS.search(function):
                        yield function


def last_name(symbol):
    """Returns the last part of a path in a mangled name of either kind, without its hash."""
    parts, rest = [], re.sub(r"17h[0-9a-f]{16}E.*$", "", symbol)
    if not rest.startswith(("_ZN", "_R")):
        return None
    while found := re.search(r"(\d+)_?([A-Za-z_])", rest):
        length, start = int(found[1]), found.start(2)
        if 0 < length <= len(rest) - start:
            parts.append(rest[start : start + length])
            rest = rest[start + length :]
        else:
            rest = rest[found.end(1) :]
    return parts[-1] if parts else None


def short(name, root):
    """Returns a file's name without the part that differs between machines."""
    if name.startswith(root):
        return name[len(root) :].lstrip("/")
    library = re.search(r"/library/(.*)", name)
    crate = re.search(r"/([a-z0-9_-]+?)-\d+\.[^/]*/(src/.*)", name)
    return library[1] if library else f"{crate[1]}/{crate[2]}" if crate else name


def found_in(library, root):
    places, functions = defaultdict(set), set()
    with tempfile.TemporaryDirectory() as directory:
        subprocess.run(["ar", "x", library], cwd=directory, check=True)
        members = [path for path in Path(directory).iterdir() if OURS.match(path.name)]
        if not any(path.name.startswith("smbdirect-") for path in members):
            sys.exit(f"{library}: it contains nothing of this crate")
        for member in members:
            member = Object(member)
            for name, line, column in member.places():
                places[short(name, root)].add((line, column))
            functions.update(member.calls())
    return places, functions


def allowed_by(path):
    allowed = {}
    for line in Path(path).read_text().splitlines():
        words = line.split("#")[0].split()
        if words[:1] == ["fn"]:
            allowed["fn " + words[1]] = None
        elif words:
            allowed[words[0]] = int(words[1]) if len(words) > 1 else None
    return allowed


def main(library, root, path):
    places, functions = found_in(Path(library).resolve(), str(Path(root).resolve()) + "/")
    allowed, wrong = allowed_by(path), []
    for name, at in sorted(places.items()):
        is_own = name.startswith("src/")
        if name not in allowed or (is_own and len(at) > (allowed[name] or 0)):
            lines = ", ".join(f"{line}:{column}" for line, column in sorted(at))
            known = f", of which {allowed[name]} known" if allowed.get(name) else ""
            wrong.append(f"  {name}: {len(at)} places{known}: {lines}" if is_own else f"  {name}: {lines}")
    wrong += [f"  fn {name}" for name in sorted(functions) if "fn " + name not in allowed]
    own = sum(len(at) for name, at in places.items() if name.startswith("src/"))
    if wrong:
        print("These places that panic, or functions that do, are not in tests/no-os/panics.txt:", *wrong, sep="\n")
        print(WHAT_TO_DO)
        return 1
    print(f"{own} places of this crate may panic, {len(functions)} functions that do are called: all are listed")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
