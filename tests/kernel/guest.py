"""What every test in the guest needs: RDMA devices, mounts of the kernel's client, and what its kernel said."""

import json
import os
import pathlib
import re
import subprocess
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tools"))
sys.dont_write_bytecode = True

import smbd_server  # noqa: E402

# A directory of the machine that the guest runs on.
OUTSIDE = pathlib.Path("/mnt/guest")
# In the guest's memory.
MEMORY = pathlib.Path("/mnt/share")

# The status of a guest whose kernel has failed by a fault of its own (docs/interop.md): its client waits for ever, in smbd_send
# or smbd_destroy, for work that failed with its connection, or has followed a pointer to nothing while it disconnected.
# Another guest may be spared.
KERNEL_FAILED = 42
FAULTS = r"smbd_(send|destroy)\+|Workqueue: smbd_\w+ smbd_disconnect_rdma_work"
# And of siw where it accepts: it has overlooked the first message of a connection.
FAULTS_OF_SIW = FAULTS + r"|smbd_negotiate rc=-"

# The guest's own address behind siw, and behind rxe: there is no RDMA on lo.
ADDRESS = {"siw": "10.9.0.1", "rxe": "10.0.2.15"}

# What the kernel says of such an environment, and of nothing that is wrong.
HARMLESS = re.compile(r"speed is unknown|iwpm_register_pid|Unable to send a nlmsg|RETBleed|Spectre|TSC|clocksource"
                      r"|RDMA transport established|Signing is enabled, and RDMA read/write will be disabled"
                      # A client that unmounts posts once more on the connection that it ends.
                      r"|smbd_post_(recv|send_credits):.*post_recv failed rc=-107")
WRONG = re.compile(r"WARNING|BUG|Oops|Call Trace|rcu.*stall|blocked for more than|general protection|refcount_t"
                   r"|list_(add|del) corruption|use-after-free|page allocation failure|KASAN|lockdep", re.IGNORECASE)


def run(*command, check=True, **more):
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(str(part) for part in command)}: {done.returncode}: {done.stdout.strip()}")
    return done.stdout


def add_rdma(kind, interface=None):
    """Makes an RDMA device in software; siw on an interface that leads nowhere, unless another is named."""
    if interface is None and kind == "siw":
        interface = "dummy0"
        run("ip", "link", "add", interface, "type", "dummy", check=False)
        run("ip", "address", "replace", f"{ADDRESS['siw']}/24", "dev", interface)
        run("ip", "link", "set", interface, "up")
    run("rdma", "link", "add", f"{kind}0", "type", kind, "netdev", interface or "eth0")
    smbd_server.wait_for(f"{kind}0 is up", lambda: "ACTIVE" in run("rdma", "link", "show"))


class Mount:
    """A share that the kernel's client has mounted by SMB Direct."""

    def __init__(self, where, address, share, user, options):
        self.where = pathlib.Path(where)
        self.source = f"//{address}/{share}"
        self.options = f"rdma,user={user},pass={smbd_server.PASSWORD},{options}"

    def __enter__(self):
        self.where.mkdir(parents=True, exist_ok=True)
        run("mount.cifs", self.source, self.where, "-o", self.options, timeout=60)
        return self.where

    def __exit__(self, kind, *_):
        # A client that waits for a server that is gone would wait here, too.
        run("umount", *(["-l"] if kind else []), self.where, check=not kind, timeout=120)


def debug_data():
    return pathlib.Path("/proc/fs/cifs/DebugData").read_text()


def is_late_break(lines):
    """A break of a lease that the client has just given up, with the first words of the message behind it."""
    return "No task to wake" in lines[0] and lines[-1].endswith(".SMB@...........") and " 00000012 " in lines[-1]


def without_own(lines):
    """Without the warning with which cifs.ko leaves rxe: it drains a queue of receives in which no place is left."""
    kept, block = [], None
    for line in lines:
        if block is None and "WARNING:" in line and "__ib_drain_rq" in line:
            block = []
        if block is None:
            kept.append(line)
        else:
            block.append(line)
            if "end trace" in line:
                kept += block if not any("smbd_destroy" in part for part in block) else []
                block = None
    return kept + (block or [])


class Kernel:
    """What the guest's kernel says from now on."""

    def __init__(self):
        self.seen = len(self.lines())

    def lines(self):
        return run("dmesg").splitlines()

    def said(self):
        lines = self.lines()
        new, self.seen = lines[self.seen:], len(lines)
        return new

    def check(self, expected=()):
        """Fails where it has warned. What it says of broken connections is expected of tests that break them."""
        new = without_own(self.said())
        wrong = [line for line in new if WRONG.search(line) and not HARMLESS.search(line)]
        odd = [line for number, line in enumerate(new) if "CIFS: VFS" in line and not HARMLESS.search(line)
               and not any(re.search(pattern, line) for pattern in expected)
               and not is_late_break(new[number:number + 2])]
        if wrong or odd:
            raise AssertionError("the kernel said: " + "\n".join((wrong + odd)[:20]))


class Report:
    """Runs checks: a line for each as it ends, and all of them in a file at the end.

    A check that takes too long, as those on a file system do whose server is gone, ends all of it, after `explain` has
    said how things are.
    """

    def __init__(self, title, only, explain, limit=300, skip=(), faults=FAULTS):
        self.title = title
        self.skip = skip
        self.faults = re.compile(faults)
        self.only = re.compile(only)
        self.explain = explain
        self.limit = limit
        self.began = time.monotonic()
        self.checks = []
        self.facts = {}
        print(f"-- {title}", flush=True)

    def check(self, name, function, *arguments):
        if name in self.skip or not self.only.search(name):
            return
        began = time.monotonic()
        watchdog = threading.Timer(self.limit, self.too_long, [name])
        watchdog.daemon = True
        watchdog.start()
        try:
            function(*arguments)
        except Exception as error:
            print(f"   FAILED {name}: {error!r}"[:3000], flush=True)
            self.checks.append({"name": name, "ok": False, "why": repr(error)})
            self.explain()
            if self.faults.search(run("dmesg")):
                print("   by a fault of the kernel's own (docs/interop.md)", flush=True)
                sys.exit(KERNEL_FAILED)
            raise
        finally:
            watchdog.cancel()
        seconds = time.monotonic() - began
        self.checks.append({"name": name, "ok": True, "seconds": round(seconds, 1)})
        print(f"   ok     {name} ({seconds:.1f} s)", flush=True)

    def too_long(self, name):
        print(f"   FAILED {name}: not within {self.limit} s", flush=True)
        # Where everybody waits is in dmesg then.
        pathlib.Path("/proc/sysrq-trigger").write_text("w")
        lines = run("dmesg").splitlines()
        print("\n".join(lines[-60:]))
        failed = self.faults.search("\n".join(lines))
        self.checks.append({"name": name, "ok": False, "why": "it does not end"})
        self.write(OUTSIDE / "report.json")
        if failed:
            print("   by a fault of the kernel's own (docs/interop.md)", flush=True)
        # What waits in the kernel cannot be ended, so the guest ends as it is.
        run("cp", "-r", MEMORY / "server/log", OUTSIDE / "server-log", check=False)
        (OUTSIDE / "dmesg").write_text("\n".join(lines) + "\n")
        (OUTSIDE / "status").write_text(str(KERNEL_FAILED if failed else 1))
        with open("/dev/port", "wb", buffering=0) as port:
            port.seek(0xf4)
            port.write(b"\1")

    def fact(self, name, value):
        self.facts[name] = value
        print(f"          {name}: {value}", flush=True)

    def write(self, path):
        path.write_text(json.dumps({"title": self.title, "kernel": os.uname().release, "checks": self.checks,
                                    "seconds": round(time.monotonic() - self.began), "facts": self.facts}, indent=1) + "\n")
