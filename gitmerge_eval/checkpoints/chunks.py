"""How a tensor is cut into the chunks of its zarr array, and where their elements belong.

The chunks depend on the shape alone: tensorstore's default, which git-theta 0.2.0 takes. All are
stored at full size; those at an edge are padded.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import prod

import numpy as np
from numpy.typing import NDArray

CHUNK_ELEMENTS = 1024 * 1024


@lru_cache(maxsize=1024)
def chunk_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """tensorstore's default chunk: the largest near-cube of at most 2^20 elements.

    The edge e is the greatest with Π max(1, min(d, e)) ≤ 2^20, found by bisection.
    Source: tensorstore's ``ChooseChunkShape``.
    """
    low, high = 1, max(shape, default=1)
    while low < high:
        middle = (low + high + 1) // 2
        if prod(max(1, min(size, middle)) for size in shape) <= CHUNK_ELEMENTS:
            low = middle
        else:
            high = middle - 1
    return tuple(max(1, min(size, low)) for size in shape)


@dataclass(frozen=True)
class Chunk:
    """One chunk of an array: its key in the zarr store and the part of the array that it holds."""

    key: str
    region: tuple[slice, ...]
    shape: tuple[int, ...]
    """The chunk as it is stored, padding included."""
    array_shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Elements as stored."""
        return prod(self.shape)

    @cached_property
    def _split(self) -> int:
        """The first axis from which on a row of the chunk is one run of the array's elements."""
        axis = len(self.shape)
        while axis > 0 and self.shape[axis - 1] == self.array_shape[axis - 1]:
            axis -= 1
        return max(axis - 1, 0)

    @property
    def rows(self) -> tuple[slice, ...]:
        """Which rows it has parts of, along the axes before theirs."""
        return self.region[: self._split]

    @property
    def width(self) -> int:
        """Stored elements of a row: what lies together in the array, with its padding."""
        return prod(self.shape[self._split :])

    @property
    def run(self) -> int:
        """Elements of a row that belong to the array: the first ones."""
        return prod(part.stop - part.start for part in self.region[self._split :])

    @property
    def filled(self) -> int:
        """Stored elements of the first rows up to the last that belongs to the array, with that
        row's own padding left out: nothing but padding follows."""
        last = 0
        for part, size in zip(self.rows, self.shape, strict=False):
            last = last * size + part.stop - part.start - 1
        return last * self.width + self.run

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """For every row the flat position of its first element in the array, -1 for padding."""
        strides = [prod(self.array_shape[axis + 1 :]) for axis in range(len(self.shape))]
        first = sum(part.start * s for part, s in zip(self.region, strides, strict=True))
        starts = np.full((), first, np.int64)
        inside = np.full((), True)
        for axis in range(self._split):
            index = np.arange(self.shape[axis], dtype=np.int64)
            part = self.region[axis]
            starts = starts[..., None] + index * strides[axis]
            inside = inside[..., None] & (index < part.stop - part.start)
        return np.where(inside, starts, -1).reshape(-1)


def grid(shape: tuple[int, ...], chunks: tuple[int, ...] | None = None) -> Iterator[Chunk]:
    """Every chunk of an array, in C order; ``chunks`` is by default :func:`chunk_shape`'s."""
    sizes = chunk_shape(shape) if chunks is None else chunks
    counts = [-(-size // chunk) for size, chunk in zip(shape, sizes, strict=True)]
    for index in itertools.product(*map(range, counts)):
        region = tuple(
            slice(i * chunk, min((i + 1) * chunk, size))
            for i, chunk, size in zip(index, sizes, shape, strict=True)
        )
        yield Chunk(".".join(map(str, index)) or "0", region, sizes, shape)
