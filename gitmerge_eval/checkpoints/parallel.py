"""Threads over groups: results in the order of the items, with bounded bytes in flight."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

WORKERS = min(16, os.cpu_count() or 1)
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


class Ahead(Generic[Item]):
    """Runs a generator in a thread of its own, before its items are asked for.

    It waits while the items not yet taken have ``in_flight_bytes`` together. Its exception is
    raised where the next item would be.
    """

    def __init__(
        self,
        items: Generator[Item, None, None],
        *,
        nbytes: Callable[[Item], int],
        in_flight_bytes: int = IN_FLIGHT_BYTES,
    ) -> None:
        self._items = items
        self._nbytes = nbytes
        self._limit = in_flight_bytes
        self._held: deque[Item] = deque()
        self._held_bytes = 0
        self._changed = threading.Condition()
        self._ended = self._closed = False
        self._error: BaseException | None = None
        # A daemon: a process whose reader has gone must be able to end.
        threading.Thread(target=self._run, name="ahead", daemon=True).start()

    def __iter__(self) -> Iterator[Item]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._held or self._ended)
                if not self._held:
                    break
                item = self._held.popleft()
                self._held_bytes -= self._nbytes(item)
                self._changed.notify_all()
            yield item
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Let the generator end where it is."""
        with self._changed:
            self._closed = True
            self._held.clear()
            self._changed.notify_all()

    def _run(self) -> None:
        try:
            for item in self._items:
                size = self._nbytes(item)
                with self._changed:
                    while not (self._closed or self._fits(size)):
                        self._changed.wait()
                    if self._closed:
                        break
                    self._held.append(item)
                    self._held_bytes += size
                    self._changed.notify_all()
        except BaseException as error:
            self._error = error
        finally:
            self._items.close()
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _fits(self, size: int) -> bool:
        return not self._held or self._held_bytes + size <= self._limit
