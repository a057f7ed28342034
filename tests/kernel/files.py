# SPDX-License-Identifier: GPL-2.0-or-later
"""Checks a file system on a mount of the kernel's client; `behind` is the same directory at the server."""

import errno
import fcntl
import mmap
import os
import pathlib
import random
import shutil
import subprocess

MIB = 1 << 20
# Sizes around those at which the client changes its behaviour: a page, its threshold for RDMA, a message, and the
# largest request.
SIZES = [0, 1, 100, 1363, 4095, 4096, 4097, 65536, 65537, MIB - 1, MIB, MIB + 1, 5 * MIB + 12345, 64 * MIB, 256 * MIB]


def content(seed, size, block=MIB):
    """Yields the bytes of a file, a block at a time: no two pages are alike, not even in different files."""
    base = (seed.to_bytes(4, "little") * 1024)[:4096]
    for at in range(0, size, block):
        pages = bytearray(base * (block // 4096))
        for page in range(0, block, 4096):
            pages[page:page + 8] = (at + page).to_bytes(8, "little")
        yield bytes(pages[:min(block, size - at)])


def aligned(size):
    """Returns memory for files that are opened with O_DIRECT."""
    return mmap.mmap(-1, max(size, 4096))


def write(path, seed, size, direct, block=MIB):
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | (os.O_DIRECT if direct else 0)
    file = os.open(path, flags, 0o644)
    try:
        memory = aligned(block)
        for piece in content(seed, size, block):
            memory[:len(piece)] = piece
            view = memoryview(memory)[:len(piece)]
            while view:
                view = view[os.write(file, view):]
        os.fsync(file)
    finally:
        os.close(file)


def compare(path, seed, size, direct=False, block=MIB):
    file = os.open(path, os.O_RDONLY | (os.O_DIRECT if direct else 0))
    try:
        assert os.fstat(file).st_size == size, f"{path} has {os.fstat(file).st_size} bytes, not {size}"
        memory, at = aligned(block), 0
        for piece in content(seed, size, block):
            have = 0
            while have < len(piece):
                got = os.preadv(file, [memoryview(memory)[have:len(piece)]], at + have)
                assert got, f"{path} ends at {at + have}"
                have += got
            if memory[:len(piece)] != piece:
                raise AssertionError(f"{path}: {difference(memory, piece, at)}")
            at += len(piece)
        assert not os.pread(file, 4096, size) if not direct else True
    finally:
        os.close(file)


def difference(memory, piece, at):
    """Says where the data that was read differs from what was written, and what is there instead."""
    pages = [page for page in range(0, len(piece), 4096) if memory[page:min(page + 4096, len(piece))] != piece[page:page + 4096]]
    first = next(byte for byte in range(pages[0], len(piece)) if memory[byte] != piece[byte])
    return (f"{len(pages)} pages differ, from {at + pages[0]} to {at + pages[-1]}; at {at + first} there is "
            f"{memory[first:first + 16].hex()}, not {piece[first:first + 16].hex()}")


def sizes(mounted, behind, direct, largest):
    """Checks files of all sizes, and leaves them on the mount if the server's directory is not visible."""
    for seed, length in enumerate(SIZES, 1):
        if length <= largest:
            size(mounted, behind, length, seed, direct)


def size(mounted, behind, length, seed, direct):
    """Writes a file, compares it with the server's, and reads it back."""
    path = mounted / f"size-{length}-{'direct' if direct else 'buffered'}"
    write(path, seed, length, direct)
    if behind:
        compare(behind / path.name, seed, length)
    if not direct:
        drop_caches()
    compare(path, seed, length, direct)
    if behind:
        path.unlink()


def drop_caches():
    pathlib.Path("/proc/sys/vm/drop_caches").write_text("1")


def fio(mounted, name, *options):
    """Writes and reads at random offsets and sizes with fio, each block with its checksum. Fails if one is wrong."""
    command = ["fio", "--minimal", f"--name={name}", f"--directory={mounted}", "--rw=randrw", "--verify=crc32c",
               "--verify_fatal=1", "--fallocate=none", "--ioengine=psync", "--randseed=4711", "--unlink=1", *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-2000:]


def verify(mounted, megabytes):
    for direct in (0, 1):
        fio(mounted, f"verify-{direct}", f"--size={megabytes}M", "--bsrange=4k-1M", "--bs_unaligned=0", "--blockalign=4k",
            f"--direct={direct}", "--verify_backlog=64")


def odd_offsets(mounted, behind, direct, size, count):
    """Writes and reads any length at any offset, and compares the data with a copy in memory."""
    chance = random.Random(4711)
    model = bytearray(size)
    path = mounted / "odd"
    path.write_bytes(model)
    file = os.open(path, os.O_RDWR | (os.O_DIRECT if direct else 0))
    try:
        for number in range(count):
            at, length = chance.randrange(size), chance.choice([1, 100, 4095, 4096, 10_000, 100_000, 300_000])
            length = min(length, size - at)
            if chance.randrange(2):
                data = chance.randbytes(length)
                model[at:at + length] = data
                assert os.pwrite(file, data, at) == length
            else:
                assert os.pread(file, length, at) == model[at:at + length], f"{length} bytes at {at}, step {number}"
            if not direct and number % 16 == 0:
                os.fsync(file)
                # This drops only pages that are neither in use nor dirty.
                drop_caches()
        os.fsync(file)
    finally:
        os.close(file)
    assert path.read_bytes() == model
    assert (behind / "odd").read_bytes() == model
    path.unlink()


def eight_processes(mounted, megabytes):
    fio(mounted, "eight", "--numjobs=8", f"--size={megabytes}M", "--bs=64k", "--direct=1", "--verify_backlog=32", "--group_reporting")


def names(mounted, behind, count):
    """Lists a directory with many names completely; makes, renames and removes files."""
    there = behind / "many"
    there.mkdir()
    there.chmod(0o777)
    wanted = {f"a file with a name of some length, number {number:05}" for number in range(count)}
    for name in wanted:
        (there / name).touch()
    listed = os.listdir(mounted / "many")
    assert len(listed) == count and set(listed) == wanted, f"{len(listed)} names of {count}"
    for number in range(20):
        (mounted / "many" / f"new {number}").write_bytes(b"x" * number)
        os.rename(mounted / "many" / f"new {number}", mounted / "many" / f"renamed {number}")
        assert (there / f"renamed {number}").stat().st_size == number
    os.rename(mounted / "many" / "renamed 1", mounted / "moved")
    os.replace(mounted / "moved", mounted / "many" / "renamed 2")
    assert (there / "renamed 2").read_bytes() == b"x"
    os.mkdir(mounted / "many" / "below")
    os.rename(mounted / "many" / "below", mounted / "beside")
    try:
        os.rmdir(mounted / "many")
        raise AssertionError("a directory that is not empty was removed")
    except OSError as error:
        assert error.errno == errno.ENOTEMPTY, error
    os.rmdir(mounted / "beside")
    shutil.rmtree(there)


def truncate(mounted, behind):
    path = mounted / "truncated"
    write(path, 77, 3 * MIB, False)
    for size in (2 * MIB + 5, 4097, 5 * MIB, 0, 10):
        os.truncate(path, size)
        assert path.stat().st_size == size == (behind / path.name).stat().st_size
    assert path.read_bytes() == bytes(10)
    path.unlink()


def locks(one, other):
    """Checks two mounts, each with its own connection: what one has locked, the other cannot lock."""
    (one / "locked").write_bytes(bytes(100))
    with open(one / "locked", "r+b") as mine, open(other / "locked", "r+b") as theirs:
        fcntl.lockf(mine, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 0)
        try:
            fcntl.lockf(theirs, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 5)
            raise AssertionError("both have the lock")
        except OSError as error:
            assert error.errno in (errno.EACCES, errno.EAGAIN), error
        fcntl.lockf(theirs, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 50)
        fcntl.lockf(mine, fcntl.LOCK_UN, 10, 0)
        fcntl.lockf(theirs, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 5)
    (one / "locked").unlink()
    # The second mount reads what the first has written and closed.
    for round_ in range(5):
        (one / "seen").write_bytes(f"round {round_}".encode() * 1000)
        assert (other / "seen").read_bytes() == f"round {round_}".encode() * 1000
    (one / "seen").unlink()
