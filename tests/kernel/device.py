#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""In the guest: tests the kernel module of /dev/smbdirect, with Linux's client on siw or rxe.

    device.py siw --module smbdirectk.ko

The test plays smbd itself, and uses only the calls of the device: it attaches, is offered the connections of the
kernel's client, and reads their first request. It breaks the rules of the interface in every way that a broken or
hostile smbd could. Two programs do more of that: --fuzz makes calls with anything in any order, and --players serves
clients with the library while listeners, workers and clients are killed. On a kernel that can inject faults
(KERNEL=debug), the module's allocations and copies then fail at random. At the end the module is unloaded, and says that
nothing is left.
"""

import argparse
import ctypes
import errno
import fcntl
import json
import mmap
import os
import pathlib
import random
import re
import select
import socket
import struct
import subprocess
import time

import faults
import guest
from guest import Kernel, Report, run
wait_for = guest.smbd_server.wait_for

PATH = "/dev/smbdirect"
LISTENER, WORKER, OBSERVER = 1, 2, 3
SEND, BULK, RECEIVE, QUEUE = 1, 2, 3, 4
OK, NOT_ATTACHED, NO_MEMORY, NO_TOKEN, TAKEN, CORRUPT = 0, 8, 10, 19, 21, 33
LATER = -1
LOOK, ALL_QUEUES = 1, 0xffffffff
# The kinds of control messages.
REPLY, SEGMENT, MADE_QUEUE, OFFER, DETACHED, ADDRESSES = 102, 103, 104, 105, 108, 109
# The numbers of operations and completions.
SEND_PDU, RDMA_READ, RDMA_WRITE, DISCONNECT, TRANSFER, RECYCLE, AUTHENTICATED = range(1, 8)
CONNECTION, PDU, SENT, RDMA_DONE, DISCONNECTED, TRANSFERRED = range(1, 7)


def number(direction, code, length):
    return direction << 30 | length << 16 | 0xd5 << 8 | code


CALLS = {"attach": number(3, 1, 152), "detach": number(0, 2, 0), "set_parameters": number(3, 3, 80),
         "set_addresses": number(3, 4, 24), "set_session_id": number(3, 5, 40), "claim": number(3, 6, 32),
         "decline": number(3, 7, 24), "get_mem_params": number(2, 8, 64), "grow": number(3, 9, 48),
         "release": number(1, 10, 16), "get_events": number(3, 11, 24), "submit": number(3, 12, 24),
         "enter": number(3, 13, 24), "status": number(3, 14, 24)}


class Process:
    """An open file of the device."""

    def __init__(self, flags=os.O_RDWR):
        self.fd = os.open(PATH, flags | os.O_CLOEXEC)
        self.messages = []
        self.segments = {}
        self.rings = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None
        self.segments, self.rings = {}, None

    def call(self, name, argument=b""):
        """Makes a call. Returns what its argument contains afterwards, or the name of the error."""
        buffer = bytearray(argument)
        try:
            fcntl.ioctl(self.fd, CALLS[name], buffer if buffer else 0)
        except OSError as error:
            return errno.errorcode[error.errno]
        return bytes(buffer)

    def attach(self, role, token=bytes(16), version=3):
        answer = self.call("attach", struct.pack("<II16sIIQ", version, role, token, 3, 0, 0) + bytes(112))
        if isinstance(answer, str):
            return answer
        return struct.unpack_from("<i", answer, 144)[0]

    def read(self):
        """Reads all waiting messages: their kinds, cookies and bodies."""
        buffer = bytearray(65536)
        address = ctypes.addressof((ctypes.c_char * len(buffer)).from_buffer(buffer))
        while True:
            answer = self.call("get_events", struct.pack("<QIIII", address, len(buffer), 0, 0, 0))
            if answer == "ESHUTDOWN":
                return
            if isinstance(answer, str):
                raise OSError(getattr(errno, answer), answer)
            filled, count = struct.unpack_from("<II", answer, 16)
            if not count:
                return
            at = 0
            while at < filled:
                kind, length, cookie = struct.unpack_from("<IIQ", buffer, at)
                self.messages.append((kind, cookie, bytes(buffer[at + 16:at + length])))
                at += length

    def wait(self, kind, seconds=20):
        """Waits for the first message of a kind."""
        end = time.monotonic() + seconds
        while True:
            self.read()
            for message in self.messages:
                if message[0] == kind:
                    self.messages.remove(message)
                    return message[2]
            left = end - time.monotonic()
            if left <= 0:
                raise RuntimeError(f"no message {kind} within {seconds} s, but {self.messages}")
            self.poll(left)

    def poll(self, seconds=0):
        poller = select.poll()
        poller.register(self.fd, select.POLLIN)
        found = poller.poll(seconds * 1000)
        return found[0][1] if found else 0

    def map(self, region, index, length):
        return mmap.mmap(self.fd, (length + 4095) // 4096 * 4096, offset=region << 40 | index << 32)

    def grow(self, region, units=1):
        answer = self.call("grow", struct.pack("<QII", 1, region, units) + bytes(32))
        if isinstance(answer, str):
            return answer
        status = struct.unpack_from("<i", answer, 40)[0]
        if status == OK:
            _, _, index, _, length = struct.unpack_from("<IIIIQ", answer, 16)
            self.segments[region, index] = self.map(region, index, length)
        return status

    def enter(self, flags=LOOK, wait_ns=0, queue=ALL_QUEUES):
        answer = self.call("enter", struct.pack("<IIQII", queue, flags, wait_ns, 0, 0))
        return answer if isinstance(answer, str) else struct.unpack_from("<I", answer, 16)[0]

    def take_memory(self):
        """Maps the memory that the device has announced."""
        self.read()
        kept = []
        for kind, cookie, body in self.messages:
            if kind == SEGMENT and cookie == 0:
                region, _, index, _, length = struct.unpack("<IIIIQ", body)
                self.segments[region, index] = self.map(region, index, length)
            elif kind == MADE_QUEUE:
                index, _, length, completions = struct.unpack("<IIQQ", body)
                self.rings = Rings(self.map(QUEUE, index, length), completions)
            else:
                kept.append((kind, cookie, body))
        self.messages = kept

    def completion(self, event, seconds=20):
        """Takes completions until one has this event."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.take_memory()
            found = self.rings.take() if self.rings else None
            if found is None:
                self.enter(LOOK, 100_000_000)
            elif found["event"] == event:
                return found
        raise RuntimeError(f"no completion {event} within {seconds} s")

    def submit(self, *entries):
        for entry in entries:
            self.rings.put(entry)
        return self.enter(0)


def entry(operation, conn, cookie=0, place=0, length=0, descriptors=0, count=0, flags=0, token=0, reserved=0):
    return struct.pack("<IIQQQIIQIIII", operation, flags, conn, cookie, place, length, token, descriptors, count, reserved, 0, 0)


class Rings:
    """The two rings of a queue, as the worker sees them. The worker never announces that it sleeps, so only `poll` says
    when there is something to do."""

    def __init__(self, memory, completions):
        self.memory = memory
        self.completions = completions
        self.capacity = struct.unpack_from("<I", memory, 16)[0]
        self.pushed = struct.unpack_from("<I", memory, 128)[0]
        self.taken = struct.unpack_from("<I", memory, completions + 256)[0]

    def put(self, bytes_of_entry):
        at = 640 + self.pushed % self.capacity * 64
        self.memory[at:at + 64] = bytes_of_entry
        self.pushed = (self.pushed + 1) & 0xffffffff
        struct.pack_into("<I", self.memory, 128, self.pushed)

    def take(self):
        if struct.unpack_from("<I", self.memory, self.completions + 128)[0] == self.taken:
            return None
        at = self.completions + 640 + self.taken % self.capacity * 64
        names = ("event", "status", "conn", "cookie", "buffer", "length")
        found = dict(zip(names, struct.unpack_from("<IiQQQI", self.memory, at)))
        self.taken = (self.taken + 1) & 0xffffffff
        struct.pack_into("<I", self.memory, self.completions + 256, self.taken)
        return found


class Client:
    """A mount by the kernel's client that no server answers. It is expected to fail."""

    def __init__(self, address):
        pathlib.Path("/mnt/cifs").mkdir(exist_ok=True)
        self.process = subprocess.Popen(
            ["mount.cifs", f"//{address}/share", "/mnt/cifs", "-o", "rdma,vers=3.1.1,nosharesock,user=nobody,pass=x,echo_interval=2"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        output = self.process.communicate(timeout=60)[0]
        assert self.process.returncode != 0, output


class Negotiation:
    """A client that only negotiates, through `smbdirectctl bridge`: the kernel's client can mount one share at a time."""

    def __init__(self, programs, address):
        self.bridge = subprocess.Popen([programs / "smbdirectctl", "bridge", address], stdout=subprocess.DEVNULL)

    def __enter__(self):
        wait_for("the bridge listens", self.connect)
        header = struct.pack("<4sHHIHHIIQIIQ16s", b"\xfeSMB", 64, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, bytes(16))
        request = header + struct.pack("<HHHHI16sQH", 36, 1, 1, 0, 0, os.urandom(16), 0, 0x302)
        self.socket.sendall(struct.pack(">I", len(request)) + request)
        return self

    def connect(self):
        try:
            self.socket = socket.create_connection(("127.0.0.1", 4450))
        except ConnectionRefusedError:
            return False
        return True

    def __exit__(self, *_):
        self.socket.close()
        self.bridge.terminate()
        self.bridge.wait(20)


class Device:
    def __init__(self, options, report):
        self.options = options
        self.report = report
        self.address = guest.ADDRESS[options.fabric]
        self.random = random.Random(options.seed)
        self.module = guest.Module(options.module)

    def load(self):
        self.module.load()
        assert os.stat(PATH).st_mode & 0o777 == 0o600, oct(os.stat(PATH).st_mode)

    def unload(self):
        self.report.fact("unloaded", self.module.unload())

    def reload(self):
        for _ in range(3):
            self.unload()
            self.load()

    def doctor(self):
        """Checks that smbdirectctl examines this device, and says that no smbd is attached."""
        if not self.options.programs:
            return
        command = [self.options.programs / "smbdirectctl", "doctor", "--json", "--control", PATH]
        # No smbd is attached, so the doctor's exit status is not 0.
        report = json.loads(run(*command, check=False))
        found = {finding["check"]: finding for finding in reversed(report["findings"])}
        assert found["device"]["result"] == "ok" and "kernel" in found["device"]["message"], report
        assert "no smbd is attached" in found["smbd"]["message"], report

    def refusals(self):
        """Checks that forbidden calls are refused by name, before and after attaching."""
        with Process() as one:
            empty = {name: bytes(call >> 16 & 0x3fff) for name, call in CALLS.items()}
            for name in ("set_parameters", "set_addresses", "set_session_id", "claim", "decline", "get_mem_params", "grow",
                         "release", "get_events", "enter"):
                assert one.call(name, empty[name]) == "EBADF", (name, one.call(name, empty[name]))
            assert one.attach(0) == "EINVAL" and one.attach(4) == "EINVAL"
            assert one.attach(LISTENER, b"t" * 16) == "EINVAL", "a token without the role"
            assert one.attach(WORKER, b"t" * 16) == NO_TOKEN
            assert one.attach(LISTENER, version=2) == 6, "another version"
            for command in (0xd501, number(3, 99, 24), number(3, 13, 32), 0x5401, number(3, 13, 0x3fff)):
                try:
                    fcntl.ioctl(one.fd, command, bytearray(16384))
                    raise AssertionError(f"{command:#x}")
                except OSError as error:
                    assert error.errno == errno.ENOTTY, (hex(command), error)
            assert one.attach(LISTENER) == OK
            assert one.attach(LISTENER) == "EBUSY"
            assert one.poll() == select.POLLIN, "the addresses"
            addresses = one.wait(ADDRESSES)
            found = [addresses[at + 12:at + 16] for at in range(8, len(addresses), 40)]
            assert bytes(map(int, self.address.split("."))) in found, addresses
            assert one.poll() == 0
            assert one.call("grow", empty["grow"]) == "EBADF", "not a worker"
            assert one.enter(2) == "EINVAL" and one.enter(0, 5) == "EINVAL"
            for offset in (0, SEND << 40, QUEUE << 40, 5 << 40):
                try:
                    mmap.mmap(one.fd, 4096, offset=offset)
                    raise AssertionError(hex(offset))
                except OSError as error:
                    assert error.errno == errno.EINVAL, error
            with Process() as two:
                assert two.attach(LISTENER) == TAKEN
                assert two.attach(OBSERVER) == OK
            with Process(os.O_RDONLY) as two:
                assert two.attach(WORKER) == "EACCES"
            one.call("detach")
            assert one.poll() & select.POLLHUP
            assert one.call("get_events", empty["get_events"]) == "ESHUTDOWN"

    def memory(self):
        """Checks that a worker's memory is its own: zeroed, mapped as often as the worker likes, and taken back."""
        with Process() as worker:
            assert worker.attach(WORKER) == OK
            assert worker.grow(RECEIVE) == 1 and worker.grow(SEND, 0) == 1 and worker.grow(SEND, 5000) == 1
            for _ in range(3):
                assert worker.grow(SEND) == OK and worker.grow(BULK, 16) == OK
            for segment in worker.segments.values():
                assert segment[:] == bytes(len(segment))
                segment[:4] = b"mine"
            again = worker.map(BULK, 1, 4096)
            assert again[:4] == b"mine"
            try:
                mmap.mmap(worker.fd, len(worker.segments[BULK, 1]) + 4096, offset=BULK << 40 | 1 << 32)
                raise AssertionError("longer than the segment")
            except OSError as error:
                assert error.errno == errno.EINVAL, error
            assert worker.call("release", struct.pack("<IIII", BULK, 0, 1, 0)) != "EBADF"
            assert again[:4] == b"mine", "a mapping keeps its pages"
            # The worker has given this segment back, so the device detaches the worker.
            worker.call("release", struct.pack("<IIII", BULK, 0, 1, 0))
            assert struct.unpack_from("<i", worker.wait(DETACHED))[0] == CORRUPT
            assert worker.poll() & select.POLLHUP

    def offered(self, listener):
        """Returns the token of the next connection."""
        return listener.wait(OFFER)[:16]

    def listener(self):
        listener = Process()
        assert listener.attach(LISTENER) == OK
        return listener

    def connection(self):
        """Checks that a client's first request reaches the worker that gets its connection."""
        with self.listener() as listener, Client(self.address):
            token = self.offered(listener)
            with Process() as worker:
                assert worker.attach(WORKER, token) == OK
                with Process() as other:
                    assert other.attach(WORKER, token) == NO_TOKEN, "a token serves once"
                conn = worker.completion(CONNECTION)["conn"]
                pdu = worker.completion(PDU)
                assert pdu["conn"] == conn
                segment, unit = pdu["buffer"] >> 16 & 0xffff, pdu["buffer"] & 0xffff
                bytes_of_pdu = worker.segments[RECEIVE, segment][unit * 8192:unit * 8192 + pdu["length"]]
                # A PDU of SMB2 with the command NEGOTIATE, and the newest dialect somewhere in it.
                assert bytes_of_pdu[:4] == b"\xfeSMB" and bytes_of_pdu[12:14] == b"\0\0", bytes_of_pdu[:64]
                assert b"\x11\x03" in bytes_of_pdu[100:], bytes_of_pdu
                worker.submit(entry(RECYCLE, conn, place=pdu["buffer"]), entry(DISCONNECT, conn))
                assert worker.completion(DISCONNECTED)["status"] == 28, "closed by this side"

    def claimed(self):
        """Checks that a worker that attached earlier claims a connection, and that another connection is declined."""
        with self.listener() as listener, Process() as worker:
            assert worker.attach(WORKER) == OK
            with Client(self.address):
                token = self.offered(listener)
                claim = struct.pack("<Q16sii", 77, token, 0, 0)
                answer = worker.call("claim", claim)
                assert struct.unpack_from("<i", answer, 24)[0] == LATER, answer
                conn = worker.completion(CONNECTION)["conn"]
                assert worker.wait(REPLY) == struct.pack("<iI", OK, 4)
                again = worker.call("claim", claim)
                assert struct.unpack_from("<i", again, 24)[0] == NO_TOKEN
                worker.submit(entry(DISCONNECT, conn))
                worker.completion(DISCONNECTED)
            with Client(self.address):
                answer = listener.call("decline", struct.pack("<16sii", self.offered(listener), 0, 0))
                assert struct.unpack_from("<i", answer, 16)[0] == OK

    def together(self):
        """Checks that the connections of two workers that are busy at the same time do not mix."""
        pids = []
        with self.listener() as listener, Client(self.address), Negotiation(self.options.programs, self.address):
            for token in (self.offered(listener), self.offered(listener)):
                pid = os.fork()
                if pid == 0:
                    self.work(token)
                pids.append(pid)
            for pid in pids:
                assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

    def work(self, token):
        """Is a worker: serves one connection, and submits much more than a call takes."""
        try:
            worker = Process()
            assert worker.attach(WORKER, token) == OK
            conn = worker.completion(CONNECTION)["conn"]
            pdu = worker.completion(PDU)
            assert pdu["conn"] == conn
            for _ in range(self.options.enters // 10):
                for _ in range(100):
                    worker.rings.put(entry(AUTHENTICATED, conn))
                assert worker.enter() == 0, "a completion of another worker"
            worker.submit(entry(RECYCLE, conn, place=pdu["buffer"]), entry(DISCONNECT, conn))
            end = worker.completion(DISCONNECTED)
            assert (end["conn"], end["status"]) == (conn, 28), end
            os._exit(0)
        except BaseException as error:
            print(f"worker: {error!r}", flush=True)
            os._exit(1)

    def apart(self):
        """Checks that calls of one worker do not wait for another worker, by counting how often calls waited: first two
        processes use the same worker's file, and then each process is a worker of its own."""
        # Two processes of one worker meet only while two processors run them.
        together = next((waits for waits, _ in (self.busy(1) for _ in range(4)) if waits > 10), 0)
        apart, runs = self.busy(2)
        self.report.fact("waits of calls for a shard: of one worker, of two workers; runs of work items", (together, apart, runs))
        # A call may meet a work item of its own worker.
        assert apart <= runs, (apart, runs)
        if not together:
            print("SKIPPED: whether calls of one worker wait: the machine is too busy for two of them at a time", flush=True)

    def busy(self, workers):
        """Makes calls in two processes at the same time. Returns how often calls waited, and the runs of work items."""
        self.unload()
        self.load()
        files = [Process() for _ in range(workers)]
        for file in files:
            assert file.attach(WORKER) == OK
            file.read()
        pids = []
        for number in range(2):
            pid = os.fork()
            if pid == 0:
                file = files[number % workers]
                failed = sum(file.enter() != 0 for _ in range(self.options.enters))
                os._exit(failed > 0)
            pids.append(pid)
        for pid in pids:
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        for file in files:
            file.close()
        said = self.module.unload()
        self.load()
        found = re.search(r"(\d+) runs, (\d+) calls, (\d+) waits", said)
        runs, calls, waits = map(int, found.groups())
        assert calls >= 2 * self.options.enters, said
        return waits, runs

    def killed(self):
        """Checks that workers, listeners and clients that are killed leave nothing behind."""
        for round_number in range(self.options.kills):
            pid = os.fork()
            if pid == 0:
                self.die(round_number)
            _, status = os.waitpid(pid, 0)
            assert os.WIFSIGNALED(status), status

    def die(self, round_number):
        try:
            listener = self.listener()
            client = Client(self.address).process
            token = self.offered(listener)
            if round_number % 4 == 3:
                client.kill()
            worker = Process()
            worker.attach(WORKER, token)
            if round_number % 4 in (0, 3):
                os.kill(os.getpid(), 9)
            worker.completion(CONNECTION)
            if round_number % 4 == 1:
                listener.close()
            worker.grow(SEND)
            worker.grow(BULK)
            if round_number % 4 == 2:
                for count in range(20):
                    worker.rings.put(entry(RDMA_READ, 1, count, 0, 4096, 0, 1))
                worker.enter(0)
            time.sleep(self.random.random() / 10)
            os.kill(os.getpid(), 9)
        finally:
            os._exit(1)

    def forked(self):
        """Checks that a child's copy of the file does not keep its parent attached."""
        read, write = os.pipe()
        parent = os.fork()
        if parent == 0:
            listener = self.listener()
            child = os.fork()
            if child == 0:
                time.sleep(30)
                os._exit(0)
            os.write(write, struct.pack("<I", child))
            os.kill(os.getpid(), 9)
        child = struct.unpack("<I", os.read(read, 4))[0]
        os.waitpid(parent, 0)
        try:
            self.listener().close()
        finally:
            os.kill(child, 9)

    def hostile_calls(self):
        """Makes calls with arbitrary arguments: each is refused or carried out, and the kernel does not complain."""
        results = {}
        values = [0, 1, 2, 3, 4, 16, 4095, 4096, 0x7fffffff, 0x80000000, 0xffffffff]
        for _ in range(self.options.calls):
            with Process(self.random.choice([os.O_RDWR, os.O_RDWR, os.O_RDONLY])) as process:
                if self.random.random() < 0.8:
                    process.attach(self.random.choice([LISTENER, WORKER, WORKER, OBSERVER]))
                for _ in range(20):
                    name = self.random.choice(list(CALLS))
                    length = CALLS[name] >> 16 & 0x3fff
                    argument = bytearray(length)
                    for at in range(0, length, 4):
                        if self.random.random() < 0.4:
                            struct.pack_into("<I", argument, at, self.random.choice(values))
                    if name == "enter":
                        argument[8:16] = bytes(8)
                    result = process.call(name, bytes(argument))
                    result = result if isinstance(result, str) else "ok"
                    results[result] = results.get(result, 0) + 1
                    if self.random.random() < 0.1:
                        try:
                            mmap.mmap(process.fd, self.random.choice([4096, 1 << 20]), offset=self.random.getrandbits(44) & ~4095)
                        except (OSError, ValueError):
                            pass
        self.report.fact("hostile calls", results)
        # What a listener has set stays.
        with self.listener() as listener:
            answer = listener.call("set_addresses", struct.pack("<IIQiI", 0, 1, 0, 0, 0))
            assert struct.unpack_from("<i", answer, 16)[0] == OK, answer
            answer = listener.call("set_parameters", bytes(80))
            assert struct.unpack_from("<i", answer, 72)[0] == OK, answer
        assert set(results) <= {"ok", "EBADF", "EINVAL", "EFAULT", "EBUSY", "EACCES", "ESHUTDOWN", "ENOTSUP", "ENOMEM"}, results

    def hostile_rings(self):
        """Puts arbitrary bytes into the rings: at worst, that ends the worker that wrote them."""
        ends = {}
        for _ in range(self.options.rings):
            with self.listener() as listener, Client(self.address):
                worker = Process()
                worker.attach(WORKER, self.offered(listener))
                conn = worker.completion(CONNECTION)["conn"]
                worker.grow(SEND)
                worker.grow(BULK)
                for _ in range(self.random.randrange(1, 30)):
                    self.scribble(worker, conn)
                    if worker.enter(self.random.choice([0, LOOK])) == "ESHUTDOWN":
                        break
                state = "detached" if worker.poll() & select.POLLHUP else "attached"
                ends[state] = ends.get(state, 0) + 1
                worker.close()
        self.report.fact("hostile rings", ends)

    def scribble(self, worker, conn):
        pick, word = self.random.choice, self.random.getrandbits
        what = self.random.random()
        rings = worker.rings
        if what < 0.05:
            struct.pack_into("<I", rings.memory, 128, word(32))
        elif what < 0.1:
            struct.pack_into("<I", rings.memory, rings.completions + 256, word(32))
        elif what < 0.2:
            struct.pack_into("<Q", rings.memory, pick([384, 512, rings.completions + 384, rings.completions + 512]), word(64))
        else:
            for _ in range(pick([1, 1, 3, 40, 300])):
                rings.put(entry(
                    pick([SEND_PDU, RDMA_READ, RDMA_WRITE, RECYCLE, AUTHENTICATED, TRANSFER, SEND_PDU, RDMA_READ, RDMA_WRITE, word(32)]),
                    pick([conn, conn, conn, conn, 0, conn + 1, word(64)]), word(64), pick([0, 0, 4096, 1 << 48, word(64)]),
                    pick([1, 64, 1364, 4096, 1 << 16, 1 << 20, word(32)]), pick([0, 16, 4096, word(64)]), pick([1, 1, 2, 4095, 4096, 0]),
                    pick([0, 0, 0, 1, word(32)]), word(32), pick([0, 0, 0, 0, 0, 0, 1])))

    def fuzz(self, *more):
        """Runs the program that breaks the rules; prints what it counted."""
        command = [self.options.fuzz, "--server", f"{self.address}:5445", "--seconds", self.options.fuzz_seconds, "--seed",
                   self.options.seed, "--patience", self.options.limit // 3, *more]
        done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              timeout=self.options.fuzz_seconds + self.options.limit)
        print("\n".join(f"          {line}" for line in done.stdout.splitlines()), flush=True)
        assert done.returncode == 0, f"the fuzzer ended with {done.returncode}"

    def with_faults(self):
        """Lets the module's allocations and copies fail while everything is used, and then serves again."""
        with faults.Injected("smbdirectk") as injected:
            self.fuzz("--faults")
        self.report.fact("failed", injected.failed)
        assert all(injected.failed.values()), injected.failed
        self.connection()

    def players(self, kills):
        """Kills processes that the library serves, and unloads the module after every few kills."""
        left = kills
        while left > 0:
            now = min(left, 10)
            environment = dict(os.environ, SMBDIRECT_TEST_DEVICE=PATH, SMBDIRECT_TEST_SERVER=f"{self.address}:5445",
                               SMBDIRECT_TEST_KILLS=str(now), SMBDIRECT_TEST_SEED=str(self.options.seed + left))
            done = subprocess.run([self.options.players], env=environment, stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, text=True, timeout=self.options.limit)
            assert done.returncode == 0, done.stdout
            left -= now
            print(f"          kill -9, {kills - left} of {kills}, seed {environment['SMBDIRECT_TEST_SEED']}: {self.module.unload()}",
                  flush=True)
            self.module.load()

    def all(self):
        check = self.report.check
        check("the module is loaded", self.load)
        check("unloaded and loaded again", self.reload)
        check("smbdirectctl doctor", self.doctor)
        check("calls that are refused", self.refusals)
        check("memory of a worker", self.memory)
        check("a connection reaches its worker", self.connection)
        check("claims and declines", self.claimed)
        check("two workers at once", self.together)
        check("no worker waits for another", self.apart)
        check(f"{self.options.kills} times killed", self.killed)
        check("a forked child", self.forked)
        check(f"{self.options.calls} files with hostile calls", self.hostile_calls)
        check(f"{self.options.rings} hostile rings", self.hostile_rings)
        if self.options.fuzz:
            # The fuzzer and the watchdog of the checks have time limits of their own.
            self.report.limit = 2 * self.options.limit + self.options.fuzz_seconds
            check(f"{self.options.fuzz_seconds} s of a fuzzer", self.fuzz)
            if faults.Injected.is_possible():
                check(f"{self.options.fuzz_seconds} s of faults", self.with_faults)
        if self.options.players:
            kills = self.options.player_kills
            self.report.limit = self.options.limit * (1 + kills // 10)
            check(f"{kills} players killed, while others are served", self.players, kills)
        self.report.limit = self.options.limit
        check("a connection after that", self.connection)
        check("unloaded, and nothing is left", self.unload)


# The messages of the kernel's client about mounts that no server answers.
CLIENT = [r"CIFS: VFS:"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fabric", choices=["siw", "rxe"])
    parser.add_argument("--module", type=pathlib.Path, required=True, help="smbdirectk.ko")
    parser.add_argument("--programs", type=pathlib.Path, help="the directory that has smbdirectctl")
    parser.add_argument("--kills", type=int, default=8, help="how many times processes are killed (8)")
    parser.add_argument("--calls", type=int, default=100, help="how many files get hostile calls (100)")
    parser.add_argument("--rings", type=int, default=10, help="how many workers write hostile rings (10)")
    parser.add_argument("--enters", type=int, default=5000, help="how many calls each of two busy workers makes (5000)")
    parser.add_argument("--fuzz", type=pathlib.Path, help="the program of instruments/tests/device_fuzz")
    parser.add_argument("--fuzz-seconds", type=int, default=20, help="how long that program runs (20)")
    parser.add_argument("--players", type=pathlib.Path, help="the program of instruments/tests/kill")
    parser.add_argument("--player-kills", type=int, default=10, help="how many of its processes are killed (10)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--limit", type=int, default=300, help="seconds that a check may take (300)")
    parser.add_argument("--only", default="", help="the checks whose names match this regular expression")
    options = parser.parse_args()
    report = Report(f"/dev/smbdirect, {options.fabric}, Linux {os.uname().release}", options.only,
                    lambda: print("\n".join(run("dmesg").splitlines()[-60:])), options.limit,
                    faults=guest.FAULTS_OF_SIW if options.fabric == "siw" else guest.FAULTS)
    kernel = Kernel()
    try:
        guest.add_rdma(options.fabric)
        leaks = guest.Leaks()
        Device(options, report).all()
        report.check("the kernel has no complaints", kernel.check, CLIENT)
        report.check("no memory is lost", leaks.check)
    finally:
        report.write()


if __name__ == "__main__":
    main()
