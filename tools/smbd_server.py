# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs an smbd and its device, smbdirectd, in a directory of their own, for the Python programs that test and measure
them."""

import getpass
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
CONFIGURATION = ROOT / "instruments/smb.conf"
PASSWORD = "pass-1word"
# How many seconds a server may take to start or to stop, and connections to end.
PATIENCE = 30

# Processes that end when this program does. Once it has begun to end, no others are started.
children = set()
children_lock = threading.Lock()
ending = False


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def listens(port):
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    except OSError:
        return False


def start(command, log, **more):
    """Starts a program in its own session, because smbd signals its process group when it ends. `more` has arguments of
    Popen."""
    with children_lock:
        if ending:
            raise RuntimeError("interrupted")
        child = subprocess.Popen([str(part) for part in command], stdin=subprocess.DEVNULL, stdout=log,
                                 stderr=subprocess.STDOUT, start_new_session=True, **more)
        children.add(child)
    return child


def stop(child):
    """Ends a program that `start` started, and what is left of its session."""
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            pass
    kill(child)


def kill(child):
    """Ends a program, and what is left of its session, at once and without a warning."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    child.wait()
    children.discard(child)


def end_children():
    """Ends all processes, even after an interruption, when threads may still try to start more."""
    global ending
    with children_lock:
        ending = True
        left = list(children)
    for child in left:
        if child.poll() is None:
            child.terminate()
    for child in left:
        stop(child)


def end_in_order():
    """Makes sure that a second signal, for example from timeout(1), does not keep this program from cleaning up."""
    def interrupted(number, _):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, interrupted)
    signal.signal(signal.SIGINT, interrupted)


def stop_rpc(root):
    """Ends what smbd leaves running: samba-dcerpcd, which has its own session and waits for more work."""
    try:
        pid = int((root / "pid/samba-dcerpcd.pid").read_text())
        if str(root) in pathlib.Path(f"/proc/{pid}/cmdline").read_text():
            os.kill(pid, signal.SIGTERM)
    except (OSError, ValueError):
        pass


def wait_for(what, condition, seconds=None):
    seconds = seconds or PATIENCE
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return
        time.sleep(0.1)
    raise RuntimeError(f"{what}: not within {seconds} s")


def add_server_options(parser, report=None, content=None):
    """Adds the options of a program that starts servers. If it writes a report, the report's default path is in this
    repository."""
    parser.add_argument("--samba", type=pathlib.Path, default=os.environ.get("SMBDIRECT_SAMBA"),
                        help="Samba's build tree (SMBDIRECT_SAMBA; without it, the tree of tools/samba.sh)")
    parser.add_argument("--programs", type=pathlib.Path, default=ROOT / "target/release",
                        help="the directory that has smbdirectd and smbdirectctl (target/release)")
    if report:
        parser.add_argument("--json", type=pathlib.Path, default=ROOT / report, help=f"where to put {content} ({report})")


def samba_tree(samba, programs, wanted=("smbd",)):
    """Returns the path of Samba, after checking that all programs are there."""
    if samba is None:
        found = subprocess.run([ROOT / "tools/samba.sh", "path"], stdout=subprocess.PIPE, text=True)
        if found.returncode:
            sys.exit("Samba is missing; `make samba` builds it")
        samba = pathlib.Path(found.stdout.strip())
    for program in (*(samba / "bin" / name for name in wanted), programs / "smbdirectd", programs / "smbdirectctl"):
        if not program.exists():
            sys.exit(f"{program} is missing; `make samba` and `cargo build --release --workspace` build it")
    return samba


class Server:
    """An smbd and smbdirectd.

    `shares` has the lines of each share by its name, `settings` has lines for [global], and `device` has the contents
    of smbdirectd.toml. If `listen` is empty, smbdirectd itself decides where to listen.
    """

    def __init__(self, root, samba, programs, shares, settings=(), device="", listen=None, tcp_port=None):
        self.root = root
        self.samba = samba
        self.programs = programs
        self.shares = shares
        self.settings = settings
        self.device = device
        self.control = root / "control"
        self.ports = {"tcp": tcp_port or free_port(), "rdma": free_port()}
        self.listen = [f"127.0.0.1:{self.ports['rdma']}"] if listen is None else listen
        # The user that logs in: every Debian has it, and file permissions apply to it.
        self.user = "daemon" if os.getuid() == 0 else getpass.getuser()
        self.processes = {}
        # Commands that run a program, such as valgrind or chroot: the command's first words, by the program's name.
        self.run_by = {}
        self.config = root / "smb.conf"

    def prepare(self):
        """Makes everything that must exist before the first process starts."""
        for name in ("private", "lock", "state", "cache", "pid", "ncalrpc", "log"):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        for share in self.shares:
            self.clean(share)
        self.config.write_text(self.configuration())
        listen = f"listen = {json.dumps(self.listen)}\n" if self.listen else ""
        (self.root / "smbdirectd.toml").write_text(f'control = "{self.control}"\n{listen}{self.device}')
        self.add_user()

    def start(self):
        self.prepare()
        self.start_device()
        self.start_smbd()

    def start_device(self):
        command = [self.programs / "smbdirectd", "--config", self.root / "smbdirectd.toml"]
        self.processes["smbdirectd"] = self.start_program("smbdirectd", command)
        wait_for(f"smbdirectd listens (its log is {self.root}/log/smbdirectd)", self.has_device)

    def start_program(self, name, command):
        return start([*self.run_by.get(name, ()), *command], open(self.root / "log" / name, "ab"))

    def has_device(self):
        if self.processes["smbdirectd"].poll() is not None:
            raise RuntimeError("smbdirectd ended: " + (self.root / "log/smbdirectd").read_text()[-2000:])
        return self.control.exists() and self.status(check=False) is not None

    def start_smbd(self):
        # The standard input must not be a pipe: in the foreground, smbd ends when its input does.
        command = [self.samba / "bin/smbd", "--foreground", "--no-process-group", "-s", self.config, "-l", self.root / "log"]
        self.processes["smbd"] = self.start_program("smbd", command)
        # smbd refuses shares until its process for change notifies runs.
        wait_for("smbd listens", lambda: listens(self.ports["tcp"]) and b"notify-daemon" in (self.root / "lock/names.tdb").read_bytes())
        self.wait_for_listener()

    def wait_for_listener(self):
        wait_for("smbd attaches to smbdirectd", lambda: any(p["role"] == "listener" for p in self.status()["processes"]))

    def stop(self):
        for name in ("smbd", "smbdirectd"):
            if name in self.processes:
                stop(self.processes.pop(name))
        stop_rpc(self.root)

    def configuration(self):
        common = CONFIGURATION.read_text().replace("DIRECTORY", str(self.root)).replace("PORT", str(self.ports["tcp"]))
        lines = [common.rstrip(), "smb direct = yes", f"smb direct device = {self.control}", *self.settings]
        for share, more in self.shares.items():
            lines += [f"[{share}]", f"path = {self.path(share)}", "read only = no", *more]
        return "\n".join(lines) + "\n"

    def path(self, share):
        """Returns the path of a share's files."""
        return self.root / share

    def add_user(self):
        command = [*self.run_by.get("smbpasswd", ()), self.samba / "bin/smbpasswd", "-c", self.config, "-s", "-a", self.user]
        said = subprocess.run(command, input=f"{PASSWORD}\n{PASSWORD}\n", text=True, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, timeout=PATIENCE)
        if said.returncode:
            raise RuntimeError(f"smbpasswd -a {self.user}: {said.stdout}")

    def clean(self, share):
        """Removes what an earlier run left in a share."""
        path = self.path(share)
        if path.exists():
            shutil.rmtree(path, ignore_errors=True)
        path.mkdir(exist_ok=True)
        path.chmod(0o777)

    def status(self, check=True):
        """Returns the device's status. If the device gives none, this fails, or returns None with check=False."""
        command = [self.programs / "smbdirectctl", "status", "--json", "--control", self.control]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=None if check else subprocess.DEVNULL, check=check,
                              timeout=PATIENCE)
        return json.loads(done.stdout) if done.returncode == 0 else None
