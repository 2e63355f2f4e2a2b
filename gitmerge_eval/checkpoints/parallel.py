"""Threads over groups: results in the order of the items, with bounded bytes in flight."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

WORKERS = min(8, os.cpu_count() or 1)
IN_FLIGHT_BYTES = 512 * 1024**2


def ordered(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    nbytes: Callable[[Item], int],
    workers: int = WORKERS,
    in_flight_bytes: int = IN_FLIGHT_BYTES,
) -> Iterator[Result]:
    """``map(function, items)`` by threads.

    A new item starts only while the items not yet taken have less than ``in_flight_bytes``
    together; one larger than that goes alone. The first exception, in the order of the items, is
    raised, and nothing further starts.
    """
    pending: deque[tuple[Future[Result], int]] = deque()
    in_flight = 0
    pool = ThreadPoolExecutor(max_workers=workers)
    try:
        for item in items:
            size = nbytes(item)
            while pending and (in_flight + size > in_flight_bytes or len(pending) > 4 * workers):
                future, freed = pending.popleft()
                in_flight -= freed
                yield future.result()
            pending.append((pool.submit(function, item), size))
            in_flight += size
        while pending:
            yield pending.popleft()[0].result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
