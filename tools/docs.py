#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Checks the documentation: links and anchors, spelling, and that docs/counters.md has everything that the code counts.

    docs.py              checks everything, in a few seconds; without aspell, spelling is skipped
    docs.py --update     writes the tables of docs/counters.md that come from the code
"""

import argparse
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Words that no dictionary has: one per line, sorted.
WORDS = ROOT / "docs/words.txt"
COUNTERS = ROOT / "docs/counters.md"
# Text between these lines comes from the code.
BEGIN, END = "<!-- begin: tools/docs.py --update -->", "<!-- end -->"


def files(*patterns):
    """Returns the files of the repository, without those that git ignores."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode == 0:
        return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).exists()]
    # This is not a git tree, only its source.
    found = []
    for pattern in patterns:
        directory, _, name = pattern.rpartition("/")
        found += (ROOT / directory).rglob(name)
    return [path for path in sorted(found) if path.is_file() and "target" not in path.relative_to(ROOT).parts]


# Markdown

FENCE = re.compile(r"^ *(```+|~~~+)")


def prose(text):
    """Yields the lines of Markdown with their numbers, without blocks of code."""
    fence, blank, code = None, True, False
    for number, line in enumerate(text.splitlines(), 1):
        found = FENCE.match(line)
        if fence:
            if found and found[1].startswith(fence):
                fence = None
            continue
        if found:
            fence = found[1]
            continue
        # A block of code is indented and follows an empty line. An indented paragraph of a list is not code.
        code = line.startswith("    ") and (blank or code) or (code and not line.strip())
        blank = not line.strip()
        if not code:
            yield number, line


def slug(heading):
    """Returns the anchor that GitHub makes from a heading."""
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").strip().lower()
    return "".join("-" if c == " " else c for c in text if c.isalnum() or c in " -_")


def anchors(path):
    found = set()
    for _, line in prose(path.read_text()):
        heading = re.match(r"#{1,6} +(.*?)(?: #+)?$", line)
        if heading:
            name, count = slug(heading[1]), 0
            while name in found:
                count += 1
                name = f"{slug(heading[1])}-{count}"
            found.add(name)
        found.update(re.findall(r'<a (?:id|name)="([^"]+)"', line))
    return found


def links(path):
    """Yields the targets of links, with their lines."""
    for number, line in prose(path.read_text()):
        line = re.sub(r"`[^`]*`", "``", line)
        for target in re.findall(r"\]\(([^)\s]+)[^)]*\)", line):
            yield number, target
        reference = re.match(r" {0,3}\[[^]]+\]: +(\S+)", line)
        if reference:
            yield number, reference[1]


def check_links(pages):
    errors, known = [], {}
    for page in pages:
        for number, target in links(page):
            if re.match(r"[a-z][a-z0-9+.-]*:", target):
                if not target.startswith(("https://", "mailto:")):
                    errors.append(f"{page.relative_to(ROOT)}:{number}: {target}: write https://")
                continue
            name, _, anchor = target.partition("#")
            where = (page.parent / name).resolve() if name else page
            if not where.exists():
                errors.append(f"{page.relative_to(ROOT)}:{number}: {target}: there is no such file")
            elif anchor and where.suffix == ".md":
                known.setdefault(where, anchors(where))
                if anchor not in known[where]:
                    errors.append(f"{page.relative_to(ROOT)}:{number}: {target}: {name or page.name} has no such heading")
    index = ROOT / "docs/README.md"
    listed = {(index.parent / target.partition("#")[0]).resolve() for _, target in links(index)}
    for page in (ROOT / "docs").glob("*.md"):
        if page != index and page.resolve() not in listed:
            errors.append(f"docs/README.md: has no link to {page.name}")
    return errors


# Spelling

# The manual's macros whose arguments are read as text.
TEXT_MACROS = {".Sh", ".Ss", ".Nd", ".Qq", ".Dq", ".Pq"}


def manual(text):
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("."):
            macro, _, rest = line.partition(" ")
            if macro not in TEXT_MACROS:
                continue
            line = re.sub(r"\b(Li|Cm|Fl|Pa|Xr|Ql|Ar|Nm)\b.*", "", rest)
        yield number, re.sub(r"\\(\(..|\[[^]]*\]|f.|.)", " ", line)


def readable(path):
    """Yields the lines of a page, without anything that is not English."""
    if path.suffix != ".md":
        yield from manual(path.read_text())
        return
    for number, line in prose(path.read_text()):
        line = re.sub(r"``[^`]*``|`[^`]*`", " ", line)
        # Quotation marks enclose what programs say.
        line = re.sub(r'"[^"]*"', " ", line)
        line = re.sub(r"\]\([^)]*\)|^ {0,3}\[[^]]+\]: .*|<[^>]*>|https?://\S+", " ", line)
        yield number, re.sub(r"\S+@\S+|\S*/\S+/\S*|\S*\.(md|rs|py|sh|toml|service|conf)\b", " ", line)


def check_spelling(pages):
    if subprocess.run("command -v aspell", shell=True, capture_output=True).returncode != 0:
        print("SKIPPED: spelling: aspell is not installed (apt install aspell aspell-en)")
        return []
    known = WORDS.read_text().split()
    places = {}
    for page in pages:
        for number, line in readable(page):
            # Names of fields, constants and the like are not words: they contain digits, underscores or capitals.
            for token in re.findall(r"[\w'’-]+", line):
                for word in re.split(r"[-’]|'(?!t\b)", token):
                    if re.fullmatch(r"[A-Za-z]?[a-z']{2,}", word):
                        places.setdefault(word, f"{page.relative_to(ROOT)}:{number}")
    command = ["aspell", "list", "--lang=en", "--encoding=utf-8", "--dont-suggest"]
    run = subprocess.run(command, input="\n".join(places), check=True, capture_output=True, text=True)
    unknown = set(run.stdout.split())
    errors = [f"docs/words.txt: {a} and {b} are not in order" for a, b in zip(known, known[1:]) if a >= b]
    errors += [f"docs/words.txt: {word}: no page has it" for word in known if word not in places]
    errors += [f"{places[word]}: {word}: no such word; if it is right, add it to docs/words.txt"
               for word in sorted(unknown - set(known))]
    return errors


# What the device counts


def snake(name):
    """Returns a variant's name as strum writes it."""
    return re.sub(r"(?<=[a-z0-9])([A-Z])|(?<=.)([A-Z])(?=[a-z])", r"_\1\2", name).lower()


def variants(path, enum):
    """Returns the names of an enum's variants, with their messages."""
    text = (ROOT / path).read_text()
    body = re.search(rf"pub enum {enum} \{{\n(.*?)\n\}}", text, re.DOTALL)[1]
    found = []
    # An attribute may take several lines; a variant's name begins a line that is indented by four blanks.
    for part in re.finditer(r"((?:    (?:#\[.*?\]|///[^\n]*)\n)*)    ([A-Z]\w*)(\([^)]*\)| \{.*?\n    \})?,", body, re.DOTALL):
        attributes, name = part[1], part[2]
        message = re.search(r'#\[error\(\s*"(.*?)"', attributes, re.DOTALL)
        serialized = re.search(r'serialize = "(\w+)"', attributes)
        if part[3] and name in ("Fabric", "Protocol", "Call", "Wire", "Provider"):
            continue  # It takes its name from its contents.
        text = re.sub(r"\\\n\s*", "", message[1]) if message else ""
        found.append((serialized[1] if serialized else snake(name), text))
    return found


# Variants whose message shows a value, which a table cannot show.
INSTEAD = {
    "os": "the operating system reported an error; the log has its name",
    "refused": "the peer or this side refused: in SMB Direct the negotiation (the log shows the status), or in the "
               "fabric the connection",
    "peer_terminated": "the peer terminated the stream; the log shows its code (RFC 5040 4.8)",
    "injected": None,  # Tests only.
}

GROUPS = [
    ("The connection", [("src/transport/event.rs", "CloseReason"), ("src/transport/event.rs", "CallFailed"),
                        ("src/fabric/traits.rs", "CloseReason")]),
    ("SMB Direct", [("src/proto/error.rs", "ProtocolError")]),
    ("Messages that break a rule", [("src/wire/mod.rs", "WireError")]),
    ("Software iWARP", [("src/fabric/iwarp/error.rs", "IwarpError")]),
]


def tables():
    """Makes the tables of the reasons for which protocols and fabrics end connections or reject messages."""
    seen, lines = {}, []
    for title, enums in GROUPS:
        rows = []
        for path, enum in enums:
            found = variants(path, enum)
            assert len(found) > 3, f"{path}: {enum} was not understood"
            for name, message in found:
                message = INSTEAD.get(name, message)
                if message is None or name in seen:
                    continue
                assert message and "{" not in message, f"{path}: {enum}: say in INSTEAD what {name} means"
                seen[name] = message
                rows.append(f"| `{name}` | {message} |")
        lines += [f"### {title}", "", "| name | meaning |", "|---|---|", *rows, ""]
    names = re.findall(r'\d+ => "(wc_\w+)"', (ROOT / "src/fabric/wc_status.rs").read_text())
    assert len(names) > 10, "src/fabric/wc_status.rs was not understood"
    lines += ["### RDMA devices", "", "An RDMA device reports the end of an operation as a number (`enum ibv_wc_status`), "
              "which the log also shows.", "These are the names of the numbers:",
              ", ".join(f"`{name}`" for name in [*names, "wc_other"]) + ".", ""]
    return lines, {*seen, *names, "wc_other"}


def own():
    """Returns the names that the device itself counts."""
    names = set()
    for path in files("src/engine/*.rs", "src/broker/*.rs"):
        text = path.read_text()
        text = text.split("#[cfg(test)]")[0]
        names.update(re.findall(r'\.count\("(\w+)"\)', text))
        names.update(re.findall(r'counters\.(?:entry|insert)\("(\w+)"', text))
        names.update(re.findall(r'\.end\(\s*\w+,\s*"(\w+)"', text))
    # The reasons for which src/broker/words.rs has words for the log are reasons for which the device itself ends a
    # connection, so they are counted, too.
    words = (ROOT / "src/broker/words.rs").read_text().split("pub(super) const fn of_limit")[0]
    names.update(re.findall(r'"(\w+)"(?= \||\s*=>)', words))
    names.update(name for name, _ in variants("src/engine/admission.rs", "Limit"))
    names.update(name for name, _ in variants("src/engine/submission.rs", "Violation"))
    return names


def check_counters(update):
    made, named = tables()
    text = COUNTERS.read_text()
    before, rest = text.split(BEGIN + "\n")
    _, after = rest.split(END)
    wanted = before + BEGIN + "\n\n" + "\n".join(made) + "\n" + END + after
    errors = []
    if update:
        COUNTERS.write_text(wanted)
    elif text != wanted:
        errors.append("docs/counters.md: not what the code says: tools/docs.py --update writes it")
    rows = set(re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", before, re.MULTILINE))
    written = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    counted = own()
    errors += [f"docs/counters.md: {name} is counted by the device: say what it means" for name in sorted(counted - written)]
    errors += [f"docs/counters.md: {name} is not counted by the device" for name in sorted(written - counted - {"requested"})]
    carried = re.search(r"pub struct Carried \{(.*?)\n\}", (ROOT / "src/broker/status.rs").read_text(), re.DOTALL)[1]
    for name in re.findall(r"pub (\w+): u64", carried):
        if f"`{name}`" not in after:
            errors.append(f"docs/counters.md: {name} of `carried` is missing")
    return errors, len(counted | named)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--update", action="store_true", help="write the tables of docs/counters.md")
    update = parser.parse_args().update
    errors, counters = check_counters(update)
    pages = files("*.md")
    manuals = files("docs/man/*")
    # torture.md is only a list of names.
    written = [page for page in pages if page.name != "torture.md"]
    errors += check_links(pages) + check_spelling(written + manuals)
    print("\n".join(errors) or f"{len(pages)} pages and {len(manuals)} manual pages, {counters} counters: links, spelling "
                               "and names are right")
    sys.exit(bool(errors))


if __name__ == "__main__":
    main()
