"""The threads that a merge is computed by: one pool, on each of them one thread of torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import numpy as np

Result = TypeVar("Result")
Item = TypeVar("Item")


@contextmanager
def threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """A pool that lets go of what has not started when the block ends."""
    pool = ThreadPoolExecutor(count, "merge")
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Torch computes each tile and each group on the thread that asks: the same bytes always."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def without_warnings(function: Callable[[Item], Result], item: Item) -> Result:
    """``function(item)``: what overflows or is no number is found in the results, and named."""
    with np.errstate(all="ignore"):
        return function(item)
