"""Files that Git has just written and would read again although nobody touched them.

Git takes a file for unchanged only where it is older, in whole seconds, than the index; one that
was checked out in the second in which the index was written is read and cleaned by every
``git status`` (gitdocs: technical/racy-git). :func:`settle` sets such a file's modification time
back and has the index say the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import stat
import struct
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from gitmerge_eval.git.repository import Repository

_SECONDS_BACK = 2
_CLOCK_TICK_SECONDS = 0.01
"""Times of files lag behind the clock by at most this."""
_32_BITS = 0xFFFFFFFF
_HEADER_BYTES = 12
_ENTRY = struct.Struct(">10I")
"""ctime, mtime (seconds and nanoseconds each), dev, ino, mode, uid, gid, size."""
_TIMES = struct.Struct(">4I")
_NAME_BYTES, _STAGE, _EXTENDED = 0x0FFF, 0x3000, 0x4000
"""Parts of an entry's flags; an extended one has two bytes more."""


def settle(repository: Repository, paths: Iterable[str]) -> None:
    """Let Git know ``paths``, which it has just checked out, without reading them again.

    For the moment after Git wrote the index and before anybody else works. Does nothing for a file
    that is not exactly as the index has it, that somebody may be writing to, or in an index of
    another format: then Git reads the file again, as it would have done.
    """
    if sys.platform != "linux":
        return  # elsewhere a file cannot be held against writers
    with contextlib.suppress(OSError):
        index = _index_file(repository)
        modified = index.stat().st_mtime_ns // 10**9
        wanted = [p for p in paths if _is_young(repository.directory / p, modified)]
        if wanted:
            _rewrite(index, repository.directory, wanted)


def await_next_second(file: Path, at_most_seconds: float) -> None:
    """Wait until an index written now is a second younger than ``file``, if that is not long."""
    try:
        due = file.lstat().st_mtime_ns // 10**9 + 1
    except OSError:
        return
    rest = due + _CLOCK_TICK_SECONDS - time.time()
    if 0 < rest <= at_most_seconds:
        time.sleep(rest)


def _index_file(repository: Repository) -> Path:
    named = os.environ.get("GIT_INDEX_FILE")
    return Path(named) if named else repository.path("index")


def _is_young(file: Path, index_modified: int) -> bool:
    try:
        return file.lstat().st_mtime_ns // 10**9 >= index_modified
    except OSError:
        return False


def _rewrite(index: Path, directory: Path, paths: list[str]) -> None:
    lock = index.with_name(f"{index.name}.lock")
    before = index.stat()
    file = os.open(lock, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(file, "wb") as output:
            data = bytearray(index.read_bytes())
            digest = _digest(data)
            done = [_set_back(data, digest, directory, path) for path in paths] if digest else []
            if digest is None or not any(done):
                lock.unlink()
                return
            size = hashlib.new(digest).digest_size
            data[-size:] = hashlib.new(digest, data[:-size], usedforsecurity=False).digest()
            output.write(data)
            output.flush()
            os.fchmod(file, stat.S_IMODE(before.st_mode))
            # As old as it was: other files that are as young as the index stay under suspicion.
            os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    except BaseException:
        lock.unlink()
        raise
    lock.replace(index)


def _digest(data: bytearray) -> str | None:
    """The algorithm of the index's checksum; None for a format that is not known here."""
    if data[:4] != b"DIRC" or int.from_bytes(data[4:8], "big") not in (2, 3):
        return None
    for name in ("sha1", "sha256"):
        size = hashlib.new(name, usedforsecurity=False).digest_size
        if hashlib.new(name, data[:-size], usedforsecurity=False).digest() == data[-size:]:
            return name
    return None


def _set_back(data: bytearray, digest: str, directory: Path, path: str) -> bool:
    """Set the file's time back and write it into the index's bytes; whether that was done."""
    size = hashlib.new(digest, usedforsecurity=False).digest_size
    position = _find(data, size, os.fsencode(path))
    if position is None:
        return False
    with _held(directory / path) as file:
        if file is None or not _agrees(_ENTRY.unpack_from(data, position), os.fstat(file)):
            return False
        past = os.fstat(file).st_mtime_ns // 10**9 - _SECONDS_BACK
        os.utime(file, ns=(past * 10**9, past * 10**9))
        changed = divmod(os.fstat(file).st_ctime_ns, 10**9)
    _TIMES.pack_into(data, position, changed[0] & _32_BITS, changed[1], past & _32_BITS, 0)
    return True


def _find(data: bytearray, object_bytes: int, name: bytes) -> int | None:
    """Where the entry of ``name`` at stage 0 starts.

    Its name stands in full behind flags that count its bytes; that it is the entry of this very
    file, its inode and times tell.
    """
    found = data.find(name + b"\0", _HEADER_BYTES)
    while found >= 0:
        for extension in (0, 2):
            flags_at = found - 2 - extension
            start = flags_at - object_bytes - _ENTRY.size
            flags = int.from_bytes(data[flags_at : flags_at + 2], "big")
            counted = flags & _NAME_BYTES == min(len(name), _NAME_BYTES)
            extended = bool(flags & _EXTENDED) == bool(extension)
            if start >= _HEADER_BYTES and counted and extended and not flags & _STAGE:
                return start
        found = data.find(name + b"\0", found + 1)
    return None


def _agrees(recorded: tuple[int, ...], now: os.stat_result) -> bool:
    """Whether the file is as Git recorded it; some builds record no nanoseconds."""
    changed, modified = divmod(now.st_ctime_ns, 10**9), divmod(now.st_mtime_ns, 10**9)
    return (
        recorded[0::2][:2] == (changed[0] & _32_BITS, modified[0] & _32_BITS)
        and recorded[1] in (0, changed[1])
        and recorded[3] in (0, modified[1])
        and recorded[5] == now.st_ino & _32_BITS
        and recorded[9] == now.st_size & _32_BITS
        and stat.S_ISREG(now.st_mode)
    )


@contextlib.contextmanager
def _held(path: Path) -> Iterator[int | None]:
    """The file, open and leased: nobody has it open for writing, and who tries to waits for us.

    None where that cannot be had.
    """
    import fcntl

    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        yield None
        return
    signalled = signal.signal(signal.SIGIO, signal.SIG_IGN)  # somebody waits; it is not long
    try:
        try:
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
            leased = True
        except OSError:
            leased = False
        yield file if leased else None
    finally:
        os.close(file)  # which gives the lease back
        signal.signal(signal.SIGIO, signalled)
