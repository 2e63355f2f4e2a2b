"""Memory that a thread uses again: fresh pages cost as much as decoding does."""

from __future__ import annotations

import threading

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
