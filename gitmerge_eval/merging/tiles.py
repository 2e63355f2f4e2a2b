"""Cuts chunks of stored groups into tiles that fit a processor's cache, and puts results in place.

A chunk is decoded block by block, all tensors of the group side by side; each block gives tiles of
whole rows, what is left of the last row waits for the next block. So the memory of a merge is a
block for each tensor, whatever the size of the group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gitmerge_eval.checkpoints.chunks import Chunk, grid
from gitmerge_eval.checkpoints.stored_together import StoredTogether
from gitmerge_eval.checkpoints.thread_memory import LentMemory, ThreadMemory
from gitmerge_eval.records import Positions

Array = NDArray[Any]
TILE = 1 << 17
"""Elements of a tile. On one thread tiles of a quarter of that, which stay in a core's own cache,
are a little faster; but then each operation is so short that threads wait for one another."""
_SIDE_BY_SIDE_BYTES = 24 << 20
"""What tiles side by side, and what they are merged into, may take on each thread."""

_DECODED_BYTES = 384 << 20
"""What all threads together may hold decoded."""
_STEP_BYTES = 1 << 20
"""Two blocks, the most that is decoded of a tensor at a time."""
_LINE = 64
"""Bytes of a line of the processor's cache."""

_memory = ThreadMemory()
_decoded = LentMemory()


@dataclass(frozen=True)
class Tile:
    """A part of a group: where it lies, and its elements of every tensor, by key."""

    positions: Positions
    arrays: Mapping[str, Array]


class Source:
    """A tensor to be cut: how its parts are read, and its dtype."""

    def __init__(
        self, read: Callable[[Chunk, int, int, Array], None], dtype: np.dtype[Any]
    ) -> None:
        self.read = read
        self.dtype = dtype


class Sources:
    """The tensors of a group, by key; some of them perhaps decoded ``together``."""

    def __init__(
        self, sources: Mapping[str, Source], together: StoredTogether | None = None
    ) -> None:
        self._sources = sources
        self._together = together

    @property
    def dtypes(self) -> dict[str, np.dtype[Any]]:
        """key -> dtype."""
        return {key: source.dtype for key, source in self._sources.items()}

    def filler(self, chunk: Chunk, buffers: Mapping[str, Array]) -> Callable[[int, int, int], None]:
        """``fill(low, high, held)``: the chunk's elements low to high, into each tensor's buffer
        from its element ``held`` on."""
        at_once = self._together.filler(chunk, buffers) if self._together else None

        def fill(low: int, high: int, held: int) -> None:
            done = at_once(low, high, held) if at_once else ()
            for key, source in self._sources.items():
                if key not in done:
                    source.read(chunk, low, high, buffers[key][held : held + high - low])

        return fill


def cut(chunk: Chunk, steps: tuple[int, ...], sources: Sources, elements: int) -> Iterator[Tile]:
    """The chunk's tiles of about ``elements`` elements, in order; padding is left out.

    ``steps`` are the elements at which decoding may pause. A tile's arrays hold only until the
    next one is asked for.
    """
    reserve = chunk.width if chunk.width <= elements else 0
    end = -(-chunk.filled // chunk.width) * chunk.width if reserve else chunk.filled
    room = max((high - low for low, high in pairwise(steps)), default=0) + reserve
    with _buffers(sources.dtypes, room) as buffers:
        fill = sources.filler(chunk, buffers)
        origin = held = 0
        for low, high in pairwise(steps):
            if low >= end:
                return  # only padding follows, which need not be decoded
            fill(low, high, held)
            available = held + high - low
            used = available if not reserve else available // chunk.width * chunk.width
            for begin, stop in _spans(origin, used, chunk.width, elements):
                yield from _tile(chunk, origin, begin, stop, buffers)
            held, origin = available - used, origin + used
            for buffer in buffers.values():
                buffer[:held] = buffer[used:available].copy()


@contextmanager
def _buffers(dtypes: Mapping[str, np.dtype[Any]], room: int) -> Iterator[dict[str, Array]]:
    """Room for as many elements of each tensor, all in one piece of memory."""
    sizes = [-(-room * dtype.itemsize // _LINE) * _LINE for dtype in dtypes.values()]
    with _decoded.lent(sum(sizes)) as memory:
        parts = np.split(memory, np.cumsum(sizes)[:-1])
        yield {
            key: part.view(dtype)[:room]
            for (key, dtype), part in zip(dtypes.items(), parts, strict=True)
        }


def bands(shape: tuple[int, ...], most: int) -> Iterator[tuple[Chunk, ...]]:
    """An array's chunks in order, up to ``most`` together that have parts of the same rows: of
    those of one chunk only its bytes lie together in the array. A chunk whose rows are larger than
    a tile stays alone."""
    band: list[Chunk] = []
    for chunk in grid(shape):
        alike = band and chunk.rows == band[0].rows and chunk.width <= TILE
        if band and not (alike and len(band) < most):
            yield tuple(band)
            band = []
        band.append(chunk)
    if band:
        yield tuple(band)


def most_together(arrays: int, itemsize: int) -> int:
    """How many chunks of as many tensors and results are merged together: at least one, whatever
    the number of models."""
    return max(_SIDE_BY_SIDE_BYTES // (arrays * TILE * itemsize), 1)


def most_threads(arrays: int) -> int:
    """How many threads may cut as many tensors: at least one, whatever the number of models."""
    return max(_DECODED_BYTES // (arrays * _STEP_BYTES), 1)


def joined(parts: Sequence[Positions]) -> Positions:
    """Where tiles side by side are as one: each row of the first, and the others' after it."""
    starts, run = parts[0].starts, sum(part.run for part in parts)
    if len(starts) > 1 and (np.diff(starts) == run).all():
        return Positions(starts[:1], run * len(starts))
    return Positions(starts, run)


def rows_of(array: Array, positions: Positions) -> Array | None:
    """(rows, run): that part of the C-contiguous ``array``; None where rows are unevenly apart."""
    flat, run, starts = array.reshape(-1), positions.run, positions.starts
    if len(starts) == 1:
        return flat[starts[0] : starts[0] + run].reshape(1, run)
    gaps = np.diff(starts)
    if not (gaps == gaps[0]).all():
        return None
    strides = (int(gaps[0]) * flat.itemsize, flat.itemsize)
    rows: Array = np.lib.stride_tricks.as_strided(flat[starts[0] :], (len(starts), run), strides)
    return rows


def room(
    parts: Sequence[Tile], arrays: Sequence[Array], dtype: np.dtype[Any]
) -> tuple[Array, bool]:
    """(values, rows, run) for what becomes of tiles side by side, and whether that is where they
    belong in the only one of ``arrays``, C-contiguous ones for each value or empty ones; else it is
    memory that the thread's next call uses again."""
    rows, run = len(parts[0].positions.starts), sum(tile.positions.run for tile in parts)
    if len(arrays) == len(parts) == 1 and arrays[0].size:
        found = rows_of(arrays[0], parts[0].positions)
        if found is not None:
            return found[None], True
    memory = _memory.take(len(arrays) * rows * run * dtype.itemsize)
    return memory.view(dtype).reshape(len(arrays), rows, run), False


def put(array: Array, positions: Positions, value: Array) -> None:
    """Write a tile's value where it belongs in the C-contiguous ``array``."""
    value = value.reshape(len(positions.starts), positions.run)
    rows = rows_of(array, positions)
    if rows is not None:
        rows[...] = value
        return
    flat = array.reshape(-1)
    for start, row in zip(positions.starts, value, strict=True):
        flat[start : start + positions.run] = row


def _spans(origin: int, count: int, width: int, elements: int) -> Iterator[tuple[int, int]]:
    """``origin`` to ``origin + count`` in spans of whole rows, or of parts of one wide row."""
    end = origin + count
    step = max(elements // width, 1) * width
    while origin < end:
        stop = min(origin + step, end)
        if width > elements:
            stop = min(origin + elements, (origin // width + 1) * width, end)
        yield origin, stop
        origin = stop


def _tile(
    chunk: Chunk, origin: int, begin: int, end: int, buffers: Mapping[str, Array]
) -> Iterator[Tile]:
    """The tile at ``begin`` to ``end``, if any of it is not padding."""
    width, row, column = chunk.width, begin // chunk.width, begin % chunk.width
    if end - begin < width:
        start, run = int(chunk.starts[row]), min(chunk.run - column, end - begin)
        if start >= 0 and run > 0:
            parts = {key: b[begin - origin : begin - origin + run] for key, b in buffers.items()}
            yield Tile(Positions((start + column,), run), parts)
        return
    starts = chunk.starts[row : end // width]
    inside = starts >= 0
    if not inside.any():
        return
    rows = {
        key: buffer[begin - origin : end - origin].reshape(-1, width)[:, : chunk.run]
        for key, buffer in buffers.items()
    }
    if not inside.all():
        starts, rows = starts[inside], {key: part[inside] for key, part in rows.items()}
    if (np.diff(starts) == chunk.run).all():  # one run: the kernels then see one row
        run = len(starts) * chunk.run
        flat = {key: part.reshape(-1) for key, part in rows.items()}
        yield Tile(Positions((int(starts[0]),), run), flat)
    else:
        yield Tile(Positions(tuple(starts.tolist()), chunk.run), rows)
