"""Files that were written are brought to disk and into place by threads of their own.

Who computes does not wait for the disk, and the disk gets several files at a time.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from gitmerge_eval.errors import CheckpointError

_THREADS = 4
_FLUSHED_BYTES = 64 << 20
"""What is written of a large file before it is brought to disk."""


class Settlement:
    """Takes temporary files and has each flushed and put in place; :meth:`end` waits for all."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="settlement")
        self._futures: list[Future[None]] = []
        self._abandoned = False

    def take(self, path: Path, finish: Callable[[Path], None]) -> None:
        """Run ``finish(path)`` in the background; ``path`` is gone afterwards in any case."""
        self._futures.append(self._pool.submit(self._run, path, finish))

    def end(self) -> None:
        """Wait for everything; raises the first error after all others are through."""
        self._pool.shutdown(wait=True)
        self.wait()

    def wait(self) -> None:
        """Wait for everything that was taken so far, and more may come; raises the first error."""
        for future in list(self._futures):
            future.result()

    def abandon(self) -> None:
        """Put nothing more in place and remove what waits."""
        self._abandoned = True
        self._pool.shutdown(wait=True)

    def _run(self, path: Path, finish: Callable[[Path], None]) -> None:
        try:
            if not self._abandoned:
                finish(path)
        finally:
            path.unlink(missing_ok=True)


class EarlyFlush:
    """Brings a large file to disk while it is still being written, so that the last ``fsync``
    finds little left to do and who waits for it does not wait for the whole file."""

    def __init__(self, file: int) -> None:
        self._file = file
        self._unflushed = 0
        self._thread: threading.Thread | None = None
        self._error: OSError | None = None
        self._lock = threading.Lock()

    def wrote(self, nbytes: int) -> None:
        """So many bytes more; from any thread."""
        with self._lock:
            self._unflushed += nbytes
            if self._unflushed < _FLUSHED_BYTES or (self._thread and self._thread.is_alive()):
                return
            self._unflushed = 0
            self._thread = threading.Thread(target=self._flush, name="early flush")
            self._thread.start()

    def end(self) -> None:
        """Wait for it, before the file is closed; OSError where the disk refused something."""
        if self._thread:
            self._thread.join()
        if self._error:  # the system tells it once, and so not to a later fsync
            raise self._error

    def _flush(self) -> None:
        try:
            os.fsync(self._file)
        except OSError as error:
            self._error = error


def put_in_place(path: Path, target: Path) -> None:
    """Rename a written file so that, after a crash at any moment, ``target`` is whole or absent.

    When this returns, bytes and name are on disk. Folders are made where there are none.
    """
    _flush(path)
    changed = [target.parent]
    while not changed[-1].exists():
        changed.append(changed[-1].parent)
    for folder in reversed(changed[:-1]):
        folder.mkdir(exist_ok=True)
    path.replace(target)
    if hasattr(os, "O_DIRECTORY"):
        for folder in changed:
            with suppress(OSError):  # some network file systems cannot do it for folders
                _flush(folder, os.O_DIRECTORY)


def _flush(path: Path, flags: int = 0) -> None:
    file = os.open(path, os.O_RDONLY | flags)
    try:
        os.fsync(file)
    finally:
        os.close(file)


@contextmanager
def explained(path: Path, verb: str = "write") -> Iterator[None]:
    """What the system says when ``path`` cannot be written, as CheckpointError with the remedy."""
    try:
        yield
    except OSError as error:
        remedy = {
            errno.ENOSPC: "free space on that disk and repeat the command",
            errno.EDQUOT: "your quota is used up; free space and repeat the command",
            errno.EIO: "the disk is failing; restore the repository from another clone",
        }.get(error.errno or 0, "check the folder's permissions and repeat the command")
        raise CheckpointError(f"cannot {verb} {path}: {error.strerror}; {remedy}") from error
