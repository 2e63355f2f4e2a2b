"""One pass over groups of several checkpoints side by side, tile by tile, into sums of float64.

The readers are those of a merge: every object is compared with its hash, a block of each tensor is
in memory at a time, and what several checkpoints share is read once. The sums are added up in the
order of the tiles, so that any number of threads gives the same numbers.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gitmerge_eval.checkpoints.chunks import Chunk, grid
from gitmerge_eval.checkpoints.lfs import ObjectStore
from gitmerge_eval.checkpoints.lora_view import Product, stored_records
from gitmerge_eval.checkpoints.parallel import ordered
from gitmerge_eval.merging import tiles
from gitmerge_eval.merging.fetching import fetch_named
from gitmerge_eval.merging.inputs import GroupReader, Readers, Slot, Slots, inside
from gitmerge_eval.merging.precision import wide
from gitmerge_eval.merging.sources import Source
from gitmerge_eval.merging.threads import one_thread_each, without_warnings

Array = NDArray[np.float64]
Vectors = Callable[[Sequence[Array]], Sequence[Array]]
"""Makes of one tile's tensors, in float64, the vectors that are measured: differences, say."""
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Sums:
    """What is known of k vectors x_1 … x_k after a pass over their elements.

    Elements that are no finite numbers count as 0, and are counted.
    """

    products: Array
    """(k, k): Σ x_i x_j."""
    largest: Array
    """(k,): max |x_i|."""
    non_finite: NDArray[np.int64]
    """(k,): elements that are NaN or infinite."""
    moved: NDArray[np.int64]
    """(k,): elements with x_i ≠ 0."""
    against: NDArray[np.int64]
    """(k, k + 1): elements where x_i and x_j, or in the last column Σ x_j, have opposite signs."""
    both: NDArray[np.int64]
    """(k, k + 1): elements where neither of the two is 0."""
    elements: int

    def __add__(self, other: Sums) -> Sums:
        return Sums(
            self.products + other.products,
            np.maximum(self.largest, other.largest),
            self.non_finite + other.non_finite,
            self.moved + other.moved,
            self.against + other.against,
            self.both + other.both,
            self.elements + other.elements,
        )

    def of(self, *vectors: int) -> Sums:
        """Those of some of the vectors; Σ x_j in the last column stays that of all."""
        kept = list(vectors)
        columns = [*kept, -1]
        return Sums(
            self.products[np.ix_(kept, kept)],
            self.largest[kept],
            self.non_finite[kept],
            self.moved[kept],
            self.against[np.ix_(kept, columns)],
            self.both[np.ix_(kept, columns)],
            self.elements,
        )

    @property
    def norms(self) -> Array:
        """(k,): ‖x_i‖."""
        return np.sqrt(np.diag(self.products))

    def cosine(self, i: int, j: int) -> float | None:
        """⟨x_i, x_j⟩ / ‖x_i‖‖x_j‖; None where one of them is 0."""
        scale = float(self.norms[i] * self.norms[j])
        return float(self.products[i, j]) / scale if scale else None

    def conflict(self, i: int, j: int) -> float | None:
        """The part of the elements where both are not 0 in which their signs are opposite; -1 for
        j stands for Σ x_j. None where there is no such element."""
        both = int(self.both[i, j])
        return int(self.against[i, j]) / both if both else None


@dataclass(frozen=True)
class Wanted:
    """One group, and the stored tensors that are read of it: of one shape."""

    name: str
    slots: tuple[Slot, ...]


def slot(source: Source, name: str) -> Slot:
    """The group ``name`` of a checkpoint."""
    return Slot(source.metadata.groups[name], source.path, f"'{source.label}'")


def measured(
    store: ObjectStore,
    groups: Sequence[Wanted],
    vectors: Vectors,
    *,
    what: str,
    progress: Progress,
    workers: int | None = None,
) -> Mapping[str, Sums]:
    """group -> the sums of ``vectors`` over its elements.

    Raises MissingObject, CorruptObject or MalformedCheckpoint, naming whose tensor it is.
    """
    records = [one.record for group in groups for one in group.slots]
    named = ((f"group '{g.name}': {one.where}", one.record) for g in groups for one in g.slots)
    fetch_named(store, [(w, stored) for w, r in named for stored in stored_records([r])])
    readers = Readers(store)
    found: dict[str, Sums] = {}
    with ExitStack() as stack:
        stack.callback(readers.close)
        if any(isinstance(record, Product) for record in records):
            stack.enter_context(one_thread_each())

        def of_chunk(work: tuple[Wanted, GroupReader, Chunk]) -> tuple[str, Sums]:
            return without_warnings(lambda each: _of_chunk(*each, vectors), work)

        parts = ordered(
            of_chunk, _chunks(readers, groups), nbytes=lambda work: 1,
            workers=workers or os.cpu_count() or 1,
        )  # fmt: skip
        for name, part in parts:
            if name not in found:
                progress(what, len(found), len(groups))
            found[name] = found[name] + part if name in found else part
    progress(what, len(found), len(groups))
    return found


def _chunks(
    readers: Readers, groups: Sequence[Wanted]
) -> Iterator[tuple[Wanted, GroupReader, Chunk]]:
    for group in groups:
        chunks = tuple(grid(group.slots[0].record.shape))
        reader = readers.reader(Slots(group.slots, None, {}, {}), len(chunks))
        for chunk in chunks:
            yield group, reader, chunk


def _of_chunk(
    group: Wanted, reader: GroupReader, chunk: Chunk, vectors: Vectors
) -> tuple[str, Sums]:
    parts = []
    with inside(f"group '{group.name}'"):
        for (tile,) in reader.tiles((chunk,), tiles.TILE):
            values = {key: wide(array, "float64").reshape(-1) for key, array in tile.arrays.items()}
            parts.append(sums(vectors([values[one.key] for one in group.slots])))
    return group.name, reduce(add, parts)


def sums(vectors: Sequence[Any]) -> Sums:
    """The sums of vectors that are in memory."""
    x = np.stack([np.asarray(vector, np.float64) for vector in vectors])
    finite = np.isfinite(x)
    bad = np.count_nonzero(~finite, axis=1)
    if bad.any():
        x = np.where(finite, x, 0.0)
    signs = np.sign(x)
    # Of signs and zeros float32 is exact up to 2^24 elements, and a tile has 2^17.
    beside = np.vstack([signs, np.sign(x.sum(axis=0))]).astype(np.float32)
    agreement = beside[:-1] @ beside.T
    nonzero = np.abs(beside)
    both = nonzero[:-1] @ nonzero.T
    return Sums(
        products=x @ x.T,
        largest=np.abs(x).max(axis=1, initial=0.0),
        non_finite=bad.astype(np.int64),
        moved=np.count_nonzero(x, axis=1).astype(np.int64),
        against=((both - agreement) / 2).astype(np.int64),
        both=both.astype(np.int64),
        elements=int(x.shape[1]),
    )
