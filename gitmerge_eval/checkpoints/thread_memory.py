"""Memory that a thread uses again: fresh pages cost as much as decoding does."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray


class ThreadMemory(threading.local):
    """One growing buffer for each thread; what a call gives holds until the thread's next one."""

    def __init__(self) -> None:
        self._held = np.empty(0, np.uint8)

    def take(self, size: int) -> NDArray[np.uint8]:
        """``size`` bytes, with whatever is in them."""
        if self._held.size < size:
            self._held = np.empty(size, np.uint8)
        return self._held[:size]


class LentMemory(threading.local):
    """Buffers of each thread for as long as somebody works in them, one inside the other too.

    What is freed and asked for anew wanders through memory and leaves a core's cache; the same
    places again do not.
    """

    def __init__(self) -> None:
        self._free: list[NDArray[np.uint8]] = []

    @contextmanager
    def lent(self, size: int) -> Iterator[NDArray[np.uint8]]:
        """``size`` bytes, with whatever is in them."""
        found = self._free.pop() if self._free else np.empty(0, np.uint8)
        if found.size < size:
            found = np.empty(size, np.uint8)
        try:
            yield found[:size]
        finally:
            self._free.append(found)
