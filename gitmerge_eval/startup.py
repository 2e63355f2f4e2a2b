"""How the processes that Git starts begin and end."""

from __future__ import annotations

import gc
import os
import sys
from contextlib import suppress
from typing import NoReturn

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt(3)."""
_KEPT_BYTES, _KEPT_IN_OLD_GLIBC = 1 << 30, 32 << 20


def prepare() -> None:
    """Settings for a process that moves gigabytes through buffers by threads of its own."""
    gc.set_threshold(100_000)  # importing makes much that lives on, and nothing here makes cycles
    # NumPy's linear algebra, which nothing here uses, would start a thread for every core, and
    # those wait for work by asking for it again and again.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if sys.platform == "linux":
        import ctypes

        with suppress(OSError, AttributeError):  # a C library without these settings
            # Fresh pages cost as much as compressing them: freed ones are kept and used again.
            mallopt = ctypes.CDLL(None).mallopt
            mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
            mallopt(_MMAP_THRESHOLD, _KEPT_BYTES) or mallopt(_MMAP_THRESHOLD, _KEPT_IN_OLD_GLIBC)


def end(status: int) -> NoReturn:
    """End at once: Git waits for it, and taking the interpreter down takes 0.05 s."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
