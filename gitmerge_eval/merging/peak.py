"""How much memory this process takes while something is computed."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

_EVERY_SECONDS = 0.01
_STATM = "/proc/self/statm"


@dataclass
class Peak:
    """The largest memory seen so far, above what there was at the start."""

    nbytes: int = 0


@contextmanager
def peak_memory(device: str = "cpu") -> Iterator[Peak]:
    """Watches the block: the memory that the process may not give back without losing something,
    sampled every 10 ms, and on a GPU what torch has allocated there. Nothing is seen where the
    system has no /proc."""
    found, done = Peak(), threading.Event()
    _give_back()
    _reset_gpu(device)
    with _anonymous_memory() as nbytes:
        before = nbytes()

        def look() -> None:
            found.nbytes = max(found.nbytes, nbytes() - before)

        def watch() -> None:
            while not done.wait(_EVERY_SECONDS):
                look()

        watcher = threading.Thread(target=watch, name="peak-memory", daemon=True)
        watcher.start()
        try:
            yield found
        finally:
            done.set()
            watcher.join()
            look()
            found.nbytes += _gpu_bytes(device)


def _give_back() -> None:
    """Let glibc return what was freed: used again, it would not be seen."""
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def _anonymous_memory() -> Iterator[Callable[[], int]]:
    """Gives a function: the bytes of resident memory that is no file's."""
    page = os.sysconf("SC_PAGE_SIZE")
    try:
        # Kept open: opening it takes six times as long as reading it.
        descriptor = os.open(_STATM, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        yield lambda: 0
        return

    def nbytes() -> int:
        _, resident, shared, *_ = os.pread(descriptor, 128, 0).split()
        return (int(resident) - int(shared)) * page

    try:
        yield nbytes
    finally:
        os.close(descriptor)


def _reset_gpu(device: str) -> None:
    if device != "cpu":
        import torch

        # Before it there are no statistics to reset.
        torch.cuda.init()  # type: ignore[no-untyped-call]
        for number in range(torch.cuda.device_count()):
            torch.cuda.reset_peak_memory_stats(number)


def _gpu_bytes(device: str) -> int:
    """What torch had allocated on all GPUs at most; it is there already where a GPU was used."""
    torch = sys.modules.get("torch")
    if device == "cpu" or torch is None:
        return 0
    return sum(torch.cuda.max_memory_allocated(n) for n in range(torch.cuda.device_count()))
