# SPDX-License-Identifier: GPL-2.0-or-later
"""Provides what every test in the guest needs: RDMA devices, mounts of the kernel's client, and the kernel's log."""

import json
import multiprocessing
import os
import pathlib
import re
import select
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tools"))
sys.dont_write_bytecode = True

import smbd_server  # noqa: E402

# The processors are emulated, and other programs of the machine use the real ones, too.
smbd_server.PATIENCE = 120

# A directory of the machine on which the guest runs.
OUTSIDE = pathlib.Path("/mnt/guest")
# A directory in the guest's memory.
MEMORY = pathlib.Path("/mnt/share")

# The exit status of a guest that failed because of a bug in the kernel's client (docs/interop.md). Either the client
# waits for ever, in smbd_send or smbd_destroy, for work that failed when its connection broke, or it followed a null
# pointer while it disconnected. Another try may succeed.
KERNEL_FAILED = 42
FAULTS = r"smbd_(send|destroy)\+|Workqueue: smbd_\w+ smbd_disconnect_rdma_work"
# FAULTS if siw is the acceptor: siw may also miss the first message of a connection.
FAULTS_OF_SIW = FAULTS + r"|smbd_negotiate rc=-"

# The guest's own address on siw, and on rxe, because lo has no RDMA.
ADDRESS = {"siw": "10.9.0.1", "rxe": "10.0.2.15"}

# Harmless messages of the kernel in this environment.
HARMLESS = re.compile(r"speed is unknown|iwpm_register_pid|Unable to send a nlmsg|RETBleed|Spectre|TSC|clocksource"
                      r"|RDMA transport established|Signing is enabled, and RDMA read/write will be disabled"
                      # A client that unmounts posts one more request on the connection that it ends.
                      r"|smbd_post_(recv|send_credits):.*post_recv failed rc=-107")
WRONG = re.compile(r"WARNING|BUG|Oops|Call Trace|rcu.*stall|blocked for more than|general protection|refcount_t"
                   r"|list_(add|del) corruption|use-after-free|page allocation failure|KASAN|lockdep", re.IGNORECASE)


def run(*command, check=True, **more):
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(str(part) for part in command)}: {done.returncode}: {done.stdout.strip()}")
    return done.stdout


def load(module):
    """Loads a module, unless everything is built into the kernel."""
    if pathlib.Path("/lib/modules", os.uname().release).exists():
        run("modprobe", module)


def add_rdma(kind, interface=None):
    """Makes a software RDMA device. siw gets an interface that leads nowhere, unless another is named."""
    if interface is None and kind == "siw":
        interface = "dummy0"
        run("ip", "link", "add", interface, "type", "dummy", check=False)
        run("ip", "address", "replace", f"{ADDRESS['siw']}/24", "dev", interface)
        run("ip", "link", "set", interface, "up")
    run("rdma", "link", "add", f"{kind}0", "type", kind, "netdev", interface or "eth0")
    smbd_server.wait_for(f"{kind}0 is up", lambda: "ACTIVE" in run("rdma", "link", "show"))


class Module:
    """smbdirectk, the device in the kernel."""

    DEVICE = pathlib.Path("/dev/smbdirect")

    def __init__(self, file):
        self.file = file

    def load(self):
        for name in ("rdma_cm", "ib_core"):
            run("modprobe", name, check=False)
        run("insmod", self.file)
        smbd_server.wait_for(f"{self.DEVICE} is there", self.DEVICE.exists)

    def unload(self):
        """Unloads the module, and returns what it says about its work. Fails if it says that anything is left."""
        before = len(run("dmesg").splitlines())
        run("rmmod", "smbdirectk", timeout=60)
        said = [line for line in run("dmesg").splitlines()[before:] if "smbdirect: unloaded" in line]
        assert len(said) == 1, said
        left = re.search(r"(\d+) connections, (\d+) work requests, (\d+) maps, (-?\d+) bytes left", said[0])
        assert left.groups() == ("0", "0", "0", "0"), said
        return said[0].split("unloaded: ")[1]


class Mount:
    """A share that the kernel's client has mounted over SMB Direct."""

    def __init__(self, where, address, share, user, options):
        self.where = pathlib.Path(where)
        self.source = f"//{address}/{share}"
        self.options = f"rdma,user={user},pass={smbd_server.PASSWORD},{options}"

    def __enter__(self):
        self.where.mkdir(parents=True, exist_ok=True)
        run("mount.cifs", self.source, self.where, "-o", self.options, timeout=smbd_server.PATIENCE)
        return self.where

    def __exit__(self, kind, *_):
        # If a client waits for a server that is gone, umount would wait as well.
        run("umount", *(["-l"] if kind else []), self.where, check=not kind, timeout=120)


def debug_data():
    return pathlib.Path("/proc/fs/cifs/DebugData").read_text()


def is_late_break(lines):
    """Recognizes the break of a lease that the client has just given up: cifs.ko logs "No task to wake", and in the
    next line the first words of the break."""
    return "No task to wake" in lines[0] and lines[-1].endswith(".SMB@...........") and " 00000012 " in lines[-1]


# The warnings that cifs.ko causes by its own bugs (docs/interop.md), as the function that warns and one that has called
# it: always, and when a connection breaks.
OWN = [("__ib_drain_rq", "smbd_destroy")]
OWN_WHEN_BROKEN = [*OWN, ("smb2_add_credits", "compound_send_recv")]


def without_own(lines, own):
    """Removes the warnings that cifs.ko causes by its own bugs."""
    kept, block, caller = [], None, None
    for line in lines:
        if block is None and "WARNING:" in line:
            caller = next((caller for function, caller in own if f" {function}+" in line), None)
            block = [] if caller else None
        if block is None:
            kept.append(line)
        else:
            block.append(line)
            if "end trace" in line:
                kept += block if not any(caller in part for part in block) else []
                block = None
    return kept + (block or [])


class ClientHangs(Exception):
    """The kernel's client hangs because of its own bug, but the server has passed everything that the check tests."""


def client_hangs():
    """Returns whether a task is waiting in one of the functions in which the client hangs for ever. Call this only if
    nothing has happened for a while."""
    for path in pathlib.Path("/proc").glob("[0-9]*/task/[0-9]*/stack"):
        try:
            if re.search(FAULTS, path.read_text()):
                return True
        except OSError:
            pass  # The task has ended.
    return False


class Kernel:
    """The log of the guest's kernel from now on."""

    def __init__(self):
        self.seen = len(self.lines())

    def lines(self):
        return run("dmesg").splitlines()

    def said(self):
        lines = self.lines()
        new, self.seen = lines[self.seen:], len(lines)
        return new

    def check(self, expected=()):
        """Fails if the kernel has warned. Messages about broken connections are expected in tests that break
        connections."""
        new = without_own(self.said(), OWN_WHEN_BROKEN if expected else OWN)
        wrong = [line for line in new if WRONG.search(line) and not HARMLESS.search(line)]
        odd = [line for number, line in enumerate(new) if "CIFS: VFS" in line and not HARMLESS.search(line)
               and not any(re.search(pattern, line) for pattern in expected)
               and not is_late_break(new[number:number + 2])]
        if wrong or odd:
            raise AssertionError("the kernel said: " + "\n".join((wrong + odd)[:20]))


class Leaks:
    """Memory that the module has lost, in a kernel that looks for such memory (CONFIG_DEBUG_KMEMLEAK)."""

    FILE = pathlib.Path("/sys/kernel/debug/kmemleak")

    def __init__(self):
        self.can_look = self.FILE.exists()
        if self.can_look:
            self.FILE.write_text("clear")

    def check(self):
        """Fails if memory is lost that was allocated by a function of the module, which has been unloaded."""
        if not self.can_look:
            return
        # The kernel reports memory only if two scans have not found a pointer to it, and not in its first seconds.
        for _ in range(2):
            time.sleep(6)
            self.FILE.write_text("scan")
        found = ("unreferenced" + one for one in self.FILE.read_text().split("unreferenced")[1:])
        # The functions of a module that has been unloaded have no names any more.
        ours = [one for one in found if re.search(r"smbdirectk|\b(sd[ek]?_|0xffffffffc0)", one)]
        assert not ours, "\n".join(ours[:3])


class Watchdog:
    """Ends the guest if something in it hangs, for example a process that waits in the kernel for a server.

    The watchdog is a separate process that is started before there is a mount. If it were started later, it would first
    close the program's open files on a share, and that would wait for the server, too.
    """

    def __init__(self, faults):
        self.faults = faults
        read, self.pipe = os.pipe()
        if os.fork() == 0:
            os.close(self.pipe)
            try:
                self.watch(read)
            finally:
                os._exit(0)
        os.close(read)

    def limit(self, seconds, name):
        """Sets the time limit, which runs from now until the next call."""
        os.write(self.pipe, f"{seconds} {name}\n".encode())

    def watch(self, pipe):
        seconds, name = None, ""
        while True:
            if not select.select([pipe], [], [], seconds)[0]:
                self.end(f"   FAILED {name}: not within {seconds:g} s")
            said = os.read(pipe, 4096).decode()
            if not said:
                return
            first, name = said.splitlines()[-1].split(" ", 1)
            seconds = float(first)

    def end(self, why):
        print(why, flush=True)
        # dmesg then shows where every task waits.
        pathlib.Path("/proc/sysrq-trigger").write_text("w")
        said = run("dmesg")
        print("\n".join(said.splitlines()[-100:]))
        failed = self.faults.search(said)
        if failed:
            print("   because of a bug in the kernel (docs/interop.md)", flush=True)
        # Tasks that wait in the kernel cannot be killed, so end the whole guest.
        run("cp", "-r", MEMORY / "server/log", OUTSIDE / "server-log", check=False)
        (OUTSIDE / "dmesg").write_text(said)
        (OUTSIDE / "status").write_text(str(KERNEL_FAILED if failed else 1))
        with open("/dev/port", "wb", buffering=0) as port:
            port.seek(0xf4)
            port.write(b"\1")


class Report:
    """Runs checks. Prints a line for each one as it ends, and writes all of them to a file.

    If a check fails, the run ends after `explain` has described the state. The run also ends if a check takes too long,
    or if it leaves something behind that does not end.
    """

    # How many seconds everything may take to end after a check has failed.
    ENDING = 120

    def __init__(self, title, only, explain, limit=300, skip=(), faults=FAULTS):
        self.title = title
        self.skip = skip
        self.faults = re.compile(faults)
        self.watchdog = Watchdog(self.faults)
        self.watchdog.limit(limit, "the start")
        self.only = re.compile(only)
        self.explain = explain
        self.limit = limit
        self.began = time.monotonic()
        self.checks = []
        self.facts = {}
        print(f"-- {title}", flush=True)
        self.write()

    def check(self, name, function, *arguments):
        if name in self.skip or not self.only.search(name):
            return
        began = time.monotonic()
        self.watchdog.limit(self.limit, name)
        try:
            function(*arguments)
        except ClientHangs as hangs:
            self.checks.append({"name": name, "ok": True, "client hangs": str(hangs)})
            self.write()
            self.watchdog.end(f"   ok     {name}, but the client hangs: {hangs}")
            return
        except Exception as error:
            self.watchdog.limit(self.ENDING, f"the end after {name}")
            print(f"   FAILED {name}: {error!r}"[:3000], flush=True)
            self.checks.append({"name": name, "ok": False, "why": repr(error)})
            self.write()
            self.explain()
            if self.faults.search(run("dmesg")):
                print("   because of a bug in the kernel (docs/interop.md)", flush=True)
                sys.exit(KERNEL_FAILED)
            raise
        # A mount between two checks may also wait for ever.
        self.watchdog.limit(self.limit, f"what follows {name}")
        seconds = time.monotonic() - began
        self.checks.append({"name": name, "ok": True, "seconds": round(seconds, 1)})
        self.write()
        print(f"   ok     {name} ({seconds:.1f} s)", flush=True)

    def fact(self, name, value):
        self.facts[name] = value
        print(f"          {name}: {value}", flush=True)

    def write(self):
        (OUTSIDE / "report.json").write_text(json.dumps(
            {"title": self.title, "kernel": os.uname().release, "checks": self.checks,
             "seconds": round(time.monotonic() - self.began), "facts": self.facts}, indent=1) + "\n")


class Load:
    """Repeats one thing on a mount, in a process of its own: see `Watchdog`.

    `done` has the numbers of the successful rounds, `errors` the messages of the others.
    """

    def __init__(self, action, pause=0.0):
        self.action = action
        self.pause = pause
        self.done = []
        self.errors = []
        self.results = multiprocessing.SimpleQueue()
        self.ending = multiprocessing.Event()
        self.process = multiprocessing.Process(target=self.work, daemon=True)
        self.process.start()

    def work(self):
        number = 0
        while not self.ending.is_set():
            number += 1
            try:
                self.action(number)
                self.results.put((number, None))
                self.ending.wait(self.pause)
            except Exception as error:
                self.results.put((number, repr(error)))
                self.ending.wait(0.5)

    def collect(self):
        while not self.results.empty():
            number, error = self.results.get()
            if error:
                self.errors.append(error)
            else:
                self.done.append(number)

    def wait_for_more(self, count, seconds, or_else=None):
        """Waits for `count` more successful rounds. If no round succeeds for 40 seconds, calls `or_else`; if
        `or_else` returns True, stops waiting and returns False."""
        wanted, last, since = len(self.done) + count, len(self.done), time.monotonic()
        ended = time.monotonic() + seconds
        while len(self.done) < wanted:
            assert time.monotonic() < ended, f"{count} more rounds: not within {seconds} s; {self.errors[-3:]}"
            time.sleep(0.1)
            self.collect()
            if len(self.done) != last:
                last, since = len(self.done), time.monotonic()
            elif or_else and time.monotonic() - since > 40:
                if or_else():
                    return False
                since = time.monotonic()
        return True

    def stop(self, seconds):
        self.ending.set()
        # The process may wait until its output is read.
        smbd_server.wait_for("the load ends", lambda: self.collect() or not self.process.is_alive(), seconds)
        self.collect()
