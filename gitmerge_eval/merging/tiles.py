"""Cuts chunks of stored groups into tiles that fit a processor's cache, and puts results in place.

A chunk is decoded block by block, all tensors of the group side by side; each block gives tiles of
whole rows, what is left of the last row waits for the next block. So the memory of a merge is a
block for each tensor, whatever the size of the group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gitmerge_eval.checkpoints.chunks import Chunk
from gitmerge_eval.records import Positions

Array = NDArray[Any]
TILE = 1 << 17
"""Elements of a tile. On one thread tiles of a quarter of that, which stay in a core's own cache,
are a little faster; but then each operation is so short that threads wait for one another."""


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


def cut(
    chunk: Chunk, steps: tuple[int, ...], sources: Mapping[str, Source], elements: int
) -> Iterator[Tile]:
    """The chunk's tiles of about ``elements`` elements, in order; padding is left out.

    ``steps`` are the elements at which decoding may pause. A tile's arrays hold only until the
    next one is asked for.
    """
    reserve = chunk.width if chunk.width <= elements else 0
    room = max((high - low for low, high in pairwise(steps)), default=0) + reserve
    buffers = {key: np.empty(room, source.dtype) for key, source in sources.items()}
    origin = held = 0
    for low, high in pairwise(steps):
        for key, source in sources.items():
            source.read(chunk, low, high, buffers[key][held : held + high - low])
        available = held + high - low
        used = available if not reserve else available // chunk.width * chunk.width
        for begin, end in _spans(origin, used, chunk.width, elements):
            yield from _tile(chunk, origin, begin, end, buffers)
        held, origin = available - used, origin + used
        for buffer in buffers.values():
            buffer[:held] = buffer[used:available].copy()


def put(array: Array, positions: Positions, value: Array) -> None:
    """Write a tile's value where it belongs in the C-contiguous ``array``."""
    flat, run = array.reshape(-1), positions.run
    starts = np.asarray(positions.starts)
    value = value.reshape(len(starts), run)
    gaps = np.diff(starts)
    if len(starts) == 1:
        flat[starts[0] : starts[0] + run] = value[0]
    elif (gaps == gaps[0]).all():
        size = flat.itemsize
        rows = np.lib.stride_tricks.as_strided(
            flat[starts[0] :], (len(starts), run), (int(gaps[0]) * size, size)
        )
        rows[...] = value
    else:
        for start, row in zip(starts, value, strict=True):
            flat[start : start + run] = row


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
