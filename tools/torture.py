#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs smbtorture's smb2 suites over TCP and over SMB Direct against the same patched smbd, and compares them test by
test.

    smbtorture ---------------------------------------------------> smbd
    smbtorture -> smbdirectctl bridge -> SMB Direct -> smbdirectd -> smbd

Fails if a test that passes over TCP does not pass over SMB Direct and is not among the exceptions
(tests/torture/exceptions), if a process of the server panics or dies, or if a connection is left over. A test that
passes only over TCP is repeated alone, at most twice; the table says so. A full run writes docs/torture.md.
Most tests wait most of the time, so several servers, each with its own device and bridge, share the work. Needs only
Python, a Samba that tools/samba.sh has built, and the programs of `cargo build --release --workspace`.
"""

import argparse
import collections
import fnmatch
import json
import os
import pathlib
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time

from smbd_server import (PASSWORD, ROOT, Server, add_server_options, end_children, end_in_order, free_port, listens,
                         samba_tree, start, stop, stop_rpc, wait_for)

EXCEPTIONS = ROOT / "tests/torture/exceptions"
TABLE = ROOT / "docs/torture.md"
TRANSPORTS = ("tcp", "smbdirect")
# How many seconds a suite may take on a busy machine.
TIME_LIMIT = 600
SHORT_TIME_LIMIT = 90

# The part that `make test` runs: a bit of everything in SMB 2, in less than four minutes.
SHORT = [
    ["smb2.connect", "smb2.read", "smb2.rw", "smb2.compound", "smb2.tcon", "smb2.sharemode", "smb2.deny"],
    ["smb2.lock", "smb2.getinfo", "smb2.setinfo", "smb2.winattr", "smb2.fileid"],
    ["smb2.create", "smb2.delete-on-close-perms", "smb2.mkdir"],
    ["smb2.credits"],
    ["smb2.session", "smb2.session-id"],
    ["smb2.ioctl", "smb2.streams", "smb2.acls"],
    ["smb2.notify.valid-req", "smb2.notify.dir", "smb2.notify.tdis", "smb2.notify.close", "smb2.dir.find"],
    ["smb2.lease.request", "smb2.lease.upgrade", "smb2.lease.break", "smb2.lease.nobreakself"],
    ["smb2.oplock.exclusive1", "smb2.oplock.exclusive2", "smb2.oplock.batch1", "smb2.oplock.levelii500"],
    ["smb2.multichannel.generic", "smb2.multichannel.oplocks.test1", "smb2.multichannel.leases.test1"],
    ["smb2.durable-open.open-oplock", "smb2.durable-open.reopen1", "smb2.durable-open.reopen2-lease-v2",
     "smb2.durable-v2-open.reopen1", "smb2.durable-v2-open.stat-and-lease"],
    ["smb2.replay.replay-commands", "smb2.replay.replay-regular", "smb2.replay.replay3"],
    ["smb2.aio_delay"], ["smb2.compound_async"],
]

# The suites that Samba runs on their own shares, or with options. All others use `plain`, without options.
PLAIN = ["vfs objects = acl_xattr streams_xattr"]
DELAY = ["vfs objects = acl_xattr streams_xattr delay_inject", "delay_inject:pread_send = 2000",
         "delay_inject:pwrite_send = 2000"]
SHARES = {
    "plain": PLAIN,
    "delay": DELAY,
    "no-streams": ["vfs objects = acl_xattr"],
    "non-canonical": [*PLAIN, "acl flag inherited canonicalization = no"],
    "kernel-oplocks": [*PLAIN, "kernel oplocks = yes"],
    "dosmode": [*PLAIN, "hide dot files = yes", "hide files = /hidefile/"],
    "inherit": [*PLAIN, "inherit permissions = yes"],
    "slow-find": [*PLAIN, "smbd:find async delay usec = 10000"],
    "ea": [*PLAIN, "acl_xattr:security_acl_name = user.hackme"],
    # smb2.acls selects this share by itself.
    "hideunread": [*PLAIN, "hide unreadable = yes"],
    "hideunwrite": [*PLAIN, "hide unwriteable files = yes"],
}
SHARE_OF = {
    "smb2.aio_delay": "delay",
    "smb2.compound_async": "delay",
    "smb2.compound_find": "slow-find",
    "smb2.create_no_streams": "no-streams",
    "smb2.acls_non_canonical": "non-canonical",
    "smb2.kernel-oplocks": "kernel-oplocks",
    "smb2.dosmode": "dosmode",
    "smb2.stream-inherit-perms": "inherit",
    "smb2.ea": "ea",
}
OPTIONS_OF = {"smb2.ea": ["--option=torture:acl_xattr_name=hackme"]}

# Suites that start early because they take a long time.
LONG = ["smb2.lease", "smb2.replay", "smb2.multichannel", "smb2.oplock", "smb2.durable-v2-open", "smb2.session",
        "smb2.notify", "smb2.maxfid", "smb2.bench", "smb2.timestamps", "smb2.dirlease"]

RESULT = re.compile(r"^(success|failure|error|skip|xfail): (.*?)(?: \[)?$")
BEGIN = re.compile(r"^test: (.*)$")
MEANING = {"success": "ok", "failure": "fail", "error": "fail", "skip": "skip", "xfail": "fail"}
TROUBLE = re.compile(r"PANIC|INTERNAL ERROR|smb_panic|panicked at|^\S+ +(?:ERROR) ", re.MULTILINE)

say_lock = threading.Lock()


def say(text):
    with say_lock:
        print(text, flush=True)


class TortureServer(Server):
    """A server with a bridge to it, set up like Samba's own environments for these tests."""

    def __init__(self, number, options):
        settings = ["workgroup = TORTURE", 'interfaces = "lo;speed=10000000000,capability=RSS"',
                    "bind interfaces only = yes", "smbd:FSCTL_SMBTORTURE = yes", "smbd:sharedelay = 100000",
                    "smbd:writetimeupdatedelay = 500000", "kernel oplocks = no", "kernel change notify = no",
                    "map hidden = no", "map system = no", "map readonly = no", "map archive = no",
                    "store dos attributes = yes", "create mask = 755", "dos filemode = yes", "strict rename = yes",
                    "strict sync = yes", "ea support = yes"]
        if os.getuid() != 0:
            settings.append("acl_xattr:security_acl_name = user.NTACL")
        shares = {name: ["posix locking = no", "kernel share modes = no", *lines] for name, lines in SHARES.items()}
        root = options.directory / f"server{number}"
        super().__init__(root, options.samba, options.programs, shares, settings)
        self.number = number
        self.options = options
        self.ports["smbdirect"] = free_port()
        self.read_until = {}

    def start(self):
        super().start()
        bridge = [self.programs / "smbdirectctl", "bridge", self.reached_at(), "--listen",
                  f"127.0.0.1:{self.ports['smbdirect']}"]
        self.processes["bridge"] = start(bridge, open(self.root / "log/bridge", "ab"))
        wait_for("the bridge listens", lambda: listens(self.ports["smbdirect"]))

    def stop(self):
        if "bridge" in self.processes:
            stop(self.processes.pop("bridge"))
        super().stop()

    def reached_at(self):
        """Returns the address and port at which SMB Direct reaches the server."""
        return f"127.0.0.1:{self.ports['rdma']}"

    def share_of(self, suite):
        return SHARE_OF.get(suite, "plain")

    def run(self, names, tests, transport, limit):
        """Runs tests. Returns the result of each, and how long they took.

        Some tests crash smbtorture when they should fail, for example if a connection is refused. The test that was
        running has then failed, and the others still get their turn.
        """
        began = time.monotonic()
        results = {}
        while True:
            last, status = self.run_once(names, transport, began + limit - time.monotonic(), results)
            missing = [test for test in tests if test not in results]
            if not missing:
                break
            if last not in missing or status is None:
                say(f"   {names[0]} over {transport}: {status} after {last}; {len(missing)} tests have no result")
                break
            results[last] = "fail"
            names = [test for test in missing if test != last]
            if not names:
                break
        return results, time.monotonic() - began

    def run_once(self, names, transport, limit, results):
        """Runs smbtorture. Returns the test that it began last, and how it ended: None if it had to be killed."""
        suite = ".".join(names[0].split(".")[:2])
        share = self.share_of(suite)
        self.clean(share)
        command = [self.samba / "bin/smbtorture", f"//127.0.0.1/{share}", "-p", self.ports[transport],
                   f"-U{self.user}%{PASSWORD}", "-s", self.config, "--target=samba3", "--fullname",
                   "--option=torture:progress=no", "--option=torture:sharedelay=100000",
                   "--option=torture:writetimeupdatedelay=500000", f"--option=torture:localdir={self.root / share}",
                   f"--basedir={self.root}", *OPTIONS_OF.get(suite, ()), *names]
        log = self.options.directory / "logs" / f"{names[0]}{'+' if len(names) > 1 else ''}.{transport}"
        with open(log, "ab") as output:
            at = output.tell()
            child = start(command, output)
            try:
                status = child.wait(max(1, limit))
            except subprocess.TimeoutExpired:
                say(f"   {names[0]} over {transport}: killed")
                status = None
            stop(child)
        last = None
        for line in log.read_bytes()[at:].decode(errors="replace").splitlines():
            found = RESULT.match(line)
            if found:
                results[found[2]] = MEANING[found[1]]
            last = BEGIN.match(line)[1] if BEGIN.match(line) else last
        return last, status

    def trouble(self, after):
        """Returns a line for each thing that happened to a server but must not happen."""
        found = []
        for name, process in self.processes.items():
            if process.poll() is not None:
                found.append(f"{name} ended ({process.returncode}) during {after}")
        for path in sorted((self.root / "log").iterdir()):
            if path.is_file():
                text = path.read_bytes()
                new = text[self.read_until.get(path, 0):].decode(errors="replace")
                self.read_until[path] = len(text)
                first = TROUBLE.search(new)
                if first:
                    line = new[new.rfind("\n", 0, first.start()) + 1:].split("\n", 1)[0]
                    found.append(f"{path.name} during {after}: {line.strip()}")
        if "smbdirectd" in self.processes and self.processes["smbdirectd"].poll() is None:
            try:
                wait_for("", lambda: self.status()["totals"]["connections"] == 0)
            except RuntimeError:
                found.append(f"connections were left over after {after}: {self.status()['connections']}")
        return found


def all_tests(options):
    """Returns the full names of the tests, by suite."""
    command = [options.samba / "bin/smbtorture", "--list", "smb2"]
    said = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, timeout=60).stdout
    suites = collections.OrderedDict()
    for line in said.splitlines():
        if line.startswith("smb2."):
            # The line ends with the name of the test, twice.
            name = next(line[:n] for n in range(len(line) - 1, 0, -1)
                        if line[n] == "." and ("." + line[:n]).endswith(line[n:]))
            suites.setdefault(".".join(name.split(".")[:2]), []).append(name)
    if not suites:
        raise RuntimeError(f"{command[0]} --list smb2 lists no tests")
    return suites


def read_exceptions():
    """Returns the patterns of tests, and the reasons, by kind."""
    kinds = {"leave-out": {}, "differs": {}}
    for line in EXCEPTIONS.read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            kind, test, reason = line.split(None, 2)
            kinds[kind][test] = reason
    return kinds


def reason_of(test, exceptions):
    return next((why for pattern, why in exceptions.items()
                 if test == pattern or test.startswith(pattern + ".") or fnmatch.fnmatchcase(test, pattern)), None)


def plan(options, suites, exceptions):
    """Returns the runs of smbtorture: lists of names for it, and the tests that they stand for."""
    def tests_of(names):
        return [test for name in names for tests in suites.values() for test in tests
                if (test == name or test.startswith(name + ".")) and not reason_of(test, exceptions["leave-out"])]
    if options.suites:
        groups = [[name] for name in options.suites]
    elif options.short:
        groups = SHORT
    else:
        order = sorted(suites, key=lambda suite: LONG.index(suite) if suite in LONG else len(LONG))
        groups = [[suite] for suite in order]
    # smbtorture cannot leave out a test, so name all the others.
    whole = [(group, tests_of(group)) for group in groups]
    cut = {test for tests in suites.values() for test in tests if reason_of(test, exceptions["leave-out"])}
    return [(tests if any(test.startswith(tuple(name + "." for name in group)) for test in cut) else group, tests)
            for group, tests in whole if tests]


class Run:
    """Collects all results."""

    def __init__(self, options, exceptions, server):
        self.options = options
        self.exceptions = exceptions
        self.server = server
        self.tests = {}
        self.seconds = collections.defaultdict(dict)
        self.trouble = []
        self.connections = 0
        self.lock = threading.Lock()

    def work(self, number, jobs):
        server = self.server(number, self.options)
        try:
            server.start()
            while True:
                try:
                    names, tests, transport = jobs.get_nowait()
                except queue.Empty:
                    break
                self.one(server, names, tests, transport)
            self.again(server, number)
        except threading.BrokenBarrierError:
            pass  # Another server has reported the reason.
        except Exception as error:  # Whatever the error is, the run has failed. The others finish their work.
            self.barrier.abort()
            with self.lock:
                self.trouble.append(f"server {number}: {error}")
        finally:
            self.finish(server)

    def one(self, server, names, tests, transport):
        results, seconds = server.run(names, tests, transport, self.options.time_limit)
        trouble = server.trouble(f"{names[0]} over {transport}")
        with self.lock:
            for test in tests:
                # A test that did not get its turn has not passed.
                self.tests.setdefault(test, {})[transport] = results.get(test, "fail")
            self.seconds[names[0]][transport] = round(seconds, 1)
            self.trouble += trouble
        counts = collections.Counter(results.get(test, "fail") for test in tests)
        say(f"   {names[0]}{' ...' if len(names) > 1 else ''} over {transport}: {shown(counts)}, {seconds:.0f} s")
        for line in trouble:
            say(f"   TROUBLE: {line}")

    def again(self, server, number):
        """Repeats tests that passed only over TCP. A server does so when nothing else is left to start."""
        self.barrier.wait()
        tests = [test for test, result in sorted(self.tests.items()) if differs(result)]
        for test in tests[number::self.options.servers]:
            for _ in range(2):
                results, _ = server.run([test], [test], "smbdirect", self.options.time_limit)
                trouble = server.trouble(f"{test} over smbdirect, alone")
                with self.lock:
                    self.tests[test].setdefault("again", []).append(results.get(test, "fail"))
                    self.trouble += trouble
                say(f"   {test} over smbdirect, alone: {results.get(test, 'fail')}")
                if results.get(test) == "ok":
                    break

    def finish(self, server):
        try:
            with self.lock:
                self.connections += server.status()["counters"].get("established", 0)
        except (OSError, ValueError, subprocess.SubprocessError):
            pass
        server.stop()

    def all(self, groups):
        jobs = queue.Queue()
        for names, tests in groups:
            for transport in TRANSPORTS:
                jobs.put((names, tests, transport))
        self.barrier = threading.Barrier(self.options.servers)
        threads = [threading.Thread(target=self.work, args=(number, jobs), daemon=True)
                   for number in range(self.options.servers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self.connections == 0:
            self.trouble.append("no SMB Direct connection was made: nothing was tested")

    def different(self):
        """Returns the tests that pass only over TCP and are not excepted."""
        return [test for test, result in sorted(self.tests.items())
                if differs(result) and "ok" not in result.get("again", ()) and
                not reason_of(test, self.exceptions["differs"])]


def differs(result):
    return result.get("tcp") == "ok" and result.get("smbdirect") != "ok"


def shown(counts):
    return f"{counts['ok']} ok, {counts['fail']} fail, {counts['skip']} skip"


def table(run, suites, version):
    """Returns the text of docs/torture.md."""
    lines = ["# smbtorture over TCP and over SMB Direct", "",
             f"Made by `make torture`, with {version}: do not edit this page. Both transports use the same smbd and",
             "smbtorture; SMB Direct goes through `smbdirectctl bridge` and smbdirectd. `n/m/k` is ok, failed, skipped. Tests that",
             "fail over both fail for reasons unrelated to the transport: Samba's own lists of known failures have most of them;",
             "the rest need what Samba's test environments have and a plain smbd on a plain file system lacks.", "",
             "| suite | tests | TCP | SMB Direct | remarks |", "|---|---:|---:|---:|---|"]
    total = {transport: collections.Counter() for transport in TRANSPORTS}
    number = 0
    for suite, tests in sorted(suites.items()):
        tests = [test for test in tests if test in run.tests]
        if not tests:
            continue
        cells = []
        for transport in TRANSPORTS:
            counts = collections.Counter(run.tests[test].get(transport, "fail") for test in tests)
            # A test has passed if it passes when it is repeated.
            if transport == "smbdirect":
                late = [test for test in tests if differs(run.tests[test]) and "ok" in run.tests[test].get("again", ())]
                for test in late:
                    counts[run.tests[test]["smbdirect"]] -= 1
                    counts["ok"] += 1
            total[transport] += counts
            cells.append(f"{counts['ok']}/{counts['fail']}/{counts['skip']}")
        number += len(tests)
        remarks = [f"{short(test, suite)}: see below" for test in tests
                   if differs(run.tests[test]) and test not in late]
        remarks += [f"{short(test, suite)}: passed when it was repeated alone" for test in late]
        lines.append(f"| {suite} | {len(tests)} | {cells[0]} | {cells[1]} | {'; '.join(remarks)} |")
    cells = [f"{t['ok']}/{t['fail']}/{t['skip']}" for t in (total[transport] for transport in TRANSPORTS)]
    lines += [f"| all | {number} | {cells[0]} | {cells[1]} | |", "", "## Exceptions", ""]
    bad = [test for test, result in sorted(run.tests.items())
           if differs(result) and "ok" not in result.get("again", ())]
    lines.append("Pass over TCP and not over SMB Direct:" if bad else "None: whatever passes over TCP passes over SMB Direct.")
    lines.append("")
    lines += [f"- `{test}`: {reason_of(test, run.exceptions['differs']) or 'NOT EXPLAINED'}" for test in bad]
    lines += [""] if bad else []
    lines += ["Not run over either transport:", ""]
    lines += [f"- `{test}`: {why}" for test, why in sorted(run.exceptions["leave-out"].items())]
    both = [test for test, result in sorted(run.tests.items()) if result.get("tcp") == "fail"]
    lines += ["", "## Failed over TCP", ""]
    for suite, tests in sorted(suites.items()):
        names = ", ".join(short(test, suite) for test in sorted(tests) if test in both)
        lines += [f"- `{suite}`: {names}"] if names else []
    lines.append("")
    better = [test for test in both if run.tests[test].get("smbdirect") == "ok"]
    if better:
        lines += [f"Of these {len(better)} passed over SMB Direct: " + ", ".join(f"`{test}`" for test in better) + ".", ""]
    return "\n".join(lines)


def short(test, suite):
    return test[len(suite) + 1:] or test


def parser():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("suites", nargs="*", help="suites or tests to run, instead of all: smb2.lock")
    parser.add_argument("--short", action="store_true", help="run only a representative part, in less than four minutes")
    add_server_options(parser, "target/torture/report.json", "each result")
    parser.add_argument("--servers", type=int, default=8, help="servers at a time (8)")
    parser.add_argument("--time-limit", type=int, help="seconds that a suite may take (600; with --short 90)")
    parser.add_argument("--keep", action="store_true", help="keep the servers' directories, with their logs")
    return parser


def torture(options, server=TortureServer):
    """Runs the tests on servers of this class. Returns whether that failed."""
    options.samba = samba_tree(options.samba, options.programs, ("smbd", "smbtorture"))
    options.servers = max(1, options.servers)
    options.time_limit = options.time_limit or (SHORT_TIME_LIMIT if options.short else TIME_LIMIT)
    end_in_order()
    options.directory = pathlib.Path(tempfile.mkdtemp(prefix="smbdirect-torture-"))
    # The users that log in must be able to reach the shares.
    options.directory.chmod(0o755)
    (options.directory / "logs").mkdir()
    began = time.monotonic()
    failed = True
    try:
        exceptions = read_exceptions()
        suites = all_tests(options)
        groups = plan(options, suites, exceptions)
        if not groups:
            sys.exit(f"torture: no test matches {' or '.join(options.suites)}")
        version = subprocess.run([options.samba / "bin/smbd", "-V"], stdout=subprocess.PIPE, text=True).stdout.strip()
        version = version.replace("Version ", "Samba ")
        say(f"-- {sum(len(tests) for _, tests in groups)} tests of {version}, twice, on {options.servers} servers in {options.directory}")
        run = Run(options, exceptions, server)
        run.all(groups)
        failed = report(run, options, suites, version, time.monotonic() - began)
    finally:
        end_children()
        for root in options.directory.glob("server*"):
            stop_rpc(root)
        if failed or options.keep:
            say(f"-- the logs are in {options.directory}")
        else:
            shutil.rmtree(options.directory, ignore_errors=True)
    return failed


def main():
    sys.exit(1 if torture(parser().parse_args()) else 0)


def report(run, options, suites, version, seconds):
    """Writes the results, and returns whether they are a failure."""
    different = run.different()
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps({"samba": version, "seconds": round(seconds), "connections": run.connections,
                                        "different": different, "trouble": run.trouble, "suite_seconds": run.seconds,
                                        "tests": run.tests}, indent=1, sort_keys=True) + "\n")
    if not options.short and not options.suites:
        TABLE.write_text(table(run, suites, version))
    for line in run.trouble:
        say(f"TROUBLE: {line}")
    for test in different:
        say(f"FAILED: {test} passes over TCP but not over SMB Direct: {run.tests[test]}")
    for transport in TRANSPORTS:
        say(f"-- over {transport}: {shown(collections.Counter(r.get(transport, 'fail') for r in run.tests.values()))}")
    say(f"-- {run.connections} SMB Direct connections, {seconds:.0f} s, {options.json}")
    return bool(different or run.trouble)


if __name__ == "__main__":
    main()
