# SPDX-License-Identifier: GPL-2.0-or-later
"""Counts the system calls and the sleeps of processes with tracefs, Linux's own record of events.

strace would not do: a process that ptrace stops at each call takes many times as long for it. So when the
process looks for work, it finds other work than usual, and it sleeps and wakes other processes at other times. An event
of tracefs takes well below a microsecond.

Needs root, the machine's own process namespace (tracefs does not know the process numbers of others), and a kernel with
CONFIG_FTRACE_SYSCALLS, as distributions build it.
"""

import ctypes
import os
import pathlib
import re
import subprocess
import tempfile
import time

CLONE_NEWNS = 0x20000
# The buffer in KiB for each processor: about three times what a run of tools/counts.py needs.
BUFFER = 8192
EVENTS = ("syscalls/sys_enter_*", "sched/sched_switch")
SLEEP = "sleep"

# Matches "comm-thread (process) [processor] flags time: sys_name(arguments)", or "sched_switch: ... prev_state=S ...".
LINE = re.compile(r".*?-(\d+) +\( *(\d+)\) \[\d+\] \S+ +[\d.]+: "
                  r"(?:sys_(\w+)\(|sched_switch: .* prev_pid=(\d+) .*prev_state=(\S+) )")


class Unavailable(Exception):
    """Why nothing can be counted here."""


class Tracing:
    """An instance of tracefs, apart from whatever else is traced on this machine."""

    def __init__(self):
        """Mounts tracefs in a mount namespace that only this process and its children have."""
        if os.geteuid() != 0:
            raise Unavailable("tracefs needs root")
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="tracefs-"))
        self.instance = self.directory / f"instances/smbdirect-{os.getpid()}"
        try:
            self.mount()
            self.remove_old()
            self.instance.mkdir()
            self.set_up()
            self.try_it()
        except subprocess.CalledProcessError as error:
            self.close()
            raise Unavailable(error.stderr.strip()) from error
        except OSError as error:
            self.close()
            raise Unavailable(str(error)) from error
        except BaseException:
            self.close()
            raise

    def mount(self):
        if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNS):
            raise OSError(ctypes.get_errno(), "making a mount namespace")
        for mount in (["--make-rprivate", "/"], ["-t", "tracefs", "nodev", self.directory]):
            subprocess.run(["mount", *mount], check=True, stderr=subprocess.PIPE, text=True)

    def remove_old(self):
        """Removes the instances of processes that were killed, because instances outlive their processes."""
        for old in self.directory.glob("instances/smbdirect-*"):
            if not pathlib.Path("/proc", old.name.removeprefix("smbdirect-")).exists():
                old.rmdir()

    def set_up(self):
        self.write("tracing_on", 0)
        self.write("buffer_size_kb", BUFFER)
        for option in ("event-fork", "record-tgid"):
            self.write(f"options/{option}", 1)
        for pattern in EVENTS:
            for event in self.instance.glob(f"events/{pattern}/enable"):
                event.write_text("1\n")

    def close(self):
        if self.instance.exists():
            self.write("tracing_on", 0)
            self.instance.rmdir()
        subprocess.run(["umount", self.directory], stderr=subprocess.DEVNULL)
        self.directory.rmdir()

    def write(self, name, value):
        (self.instance / name).write_text(f"{value}\n")

    def try_it(self):
        """Fails if the kernel does not record system calls, or if it has another number for this process."""
        self.start([os.getpid()])
        # tracefs learns to which process a thread belongs when the thread sleeps.
        time.sleep(0.01)
        for _ in range(100):
            os.getppid()
        seen = self.stop().count((os.getpid(), "getppid"))
        if seen != 100:
            raise Unavailable(f"tracefs has {seen} of 100 system calls of this process: is this another process namespace?")

    def start(self, processes):
        """Begins to record what these processes do, and those that they fork from now on."""
        threads = [thread.name for process in processes for thread in pathlib.Path(f"/proc/{process}/task").iterdir()]
        self.write("set_event_pid", "\n".join(threads))
        self.write("trace", "")
        self.write("tracing_on", 1)

    def stop(self):
        """Returns what the processes have done since `start`, in order: pairs of a process and its call, or SLEEP.

        SLEEP means that a thread waits: getrusage(2) calls this a voluntary context switch.
        """
        self.write("tracing_on", 0)
        for stats in self.instance.glob("per_cpu/cpu*/stats"):
            if not re.search(r"^overrun: 0$", stats.read_text(), re.M):
                raise RuntimeError("tracefs lost events: its buffer is too small")
        events = []
        with open(self.instance / "trace", errors="replace") as trace:
            for line in trace:
                if match := LINE.match(line):
                    thread, process, call, switched, state = match.groups()
                    if call:
                        events.append((int(process), call))
                    elif switched == thread and not state.startswith("R"):
                        events.append((int(process), SLEEP))
        return events
