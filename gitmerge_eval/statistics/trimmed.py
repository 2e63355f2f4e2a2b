"""The trimmed task vector: τ = θ - θ_p with all but its largest magnitudes set to zero.

Yadav et al. 2023 (arXiv 2306.01708), step 'trim', over the whole model: of the n elements of the
groups that differ from the base, those with |τ| at least the k-th largest stay, k = max(1,
floor(density · n)); elements equal to the threshold all stay.

The threshold is found by exact selection over streamed passes: a histogram of the leading bits of
|τ| narrows the threshold down to one bin, the next pass to one bin of that, until the elements of
those bins are few enough to be collected. Memory does not depend on the size of the model, and
hardly on the number of constituents.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Protocol

from gitmerge_eval.methods import _arrays as arrays
from gitmerge_eval.records import Part, Statistic

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from gitmerge_eval.records import Array

STATISTIC = Statistic(
    name="trimmed",
    title="trimmed task vector",
    reference="Yadav et al. 2023, arXiv 2306.01708",
    needs_data=False,
    combine_exact_for=(),
    options=("density",),
)

Pairs = Callable[[], "Iterator[tuple[str, Tensor, Tensor]]"]
"""Starts a pass over (group name, base, constituent); integer groups may be among them."""


class Vectors(Protocol):
    """A pass over the task vectors, group by group or tile by tile."""

    def __call__(self, function: Callable[[int, Array], Part], /) -> Iterator[Part]:
        """``function(position of the constituent, its task vector)`` of each, in a fixed order."""


# The 63 bits of a float64 without its sign. A float32 has all that it has in the first two digits.
# Two passes do for most models, and at most two for float32 and four for float64.
_DIGITS = (17, 17, 15, 14)
_FLOAT32_DIGITS = 2
_ALL = sum(_DIGITS)
_BLOCK = 1 << 18
_COLLECTED = 1 << 23
"""Elements, of all constituents together, that are collected: 64 megabytes."""


def trim(pairs: Pairs, density: float) -> dict[str, Tensor]:
    """The trimmed task vector by group name: dense, zero where trimmed, shapes the groups'.

    Which elements stay is decided in float64, as TIES does without this statistic; the values are
    float32, of a float64 group float64.
    """

    def vectors(function: Callable[[int, Tensor], Part]) -> Iterator[Part]:
        return (function(0, vector) for _, vector, _ in _task_vectors(pairs))

    (least,) = thresholds(vectors, 1, density)
    return {
        name: vector.masked_fill(vector.abs() < least, 0).to(dtype)
        for name, vector, dtype in _task_vectors(pairs)
    }


def thresholds(vectors: Vectors, models: int, density: float) -> tuple[float, ...]:
    """For each of the constituents 0 to models - 1 the k-th largest |τ|, exactly.

    k = max(1, ⌊density · n⌋) of the n elements that a pass has for that constituent; 0 where it has
    none. At most two passes for float32, four for float64; every pass must yield the same, in
    whatever order and by however many threads.
    """
    selections = [_Selection() for _ in range(models)]
    shift = _ALL
    for step, bits in enumerate(_DIGITS):
        if step == _FLOAT32_DIGITS and not any(selection.wide for selection in selections):
            break
        if step and sum(selection.population for selection in selections) <= _COLLECTED:
            return _selected(vectors, selections, shift)
        shift -= bits
        histograms = _histograms(vectors, selections, bits, shift)
        for selection, histogram in zip(selections, histograms, strict=True):
            if step == 0 and histogram is not None:
                size = int(histogram.sum())
                selection.rank = min(size, max(1, math.floor(density * size)))
            _narrow(selection, histogram, bits)
    return tuple(_magnitude(selection.prefix << shift) for selection in selections)


def _task_vectors(pairs: Pairs) -> Iterator[tuple[str, Tensor, torch.dtype]]:
    """(name, θ - θ_p in float64, the dtype to store it in) of each floating-point group that
    differs from its base."""
    import torch

    for name, base, tensor in pairs():
        if tensor.is_floating_point() and not torch.equal(base, tensor):
            stored = torch.float64 if tensor.dtype == torch.float64 else torch.float32
            yield name, tensor.detach().double() - base.detach().double(), stored


@dataclass
class _Selection:
    """Where the search for one constituent's k-th largest magnitude stands."""

    prefix: int = 0
    """The leading bits of the threshold, as far as they are known."""
    rank: int = 0
    """k among the elements that share the prefix; 0 where there is no element at all."""
    population: int = 0
    """The number of elements that share the prefix."""
    wide: bool = False
    """Whether some task vector has more bits than a float32."""


def _histograms(
    vectors: Vectors, selections: list[_Selection], bits: int, shift: int
) -> list[Array | None]:
    """One pass: how many elements with the known prefix have each value of the next digit, the
    ``bits`` from ``shift`` upwards; None where there is no element at all."""
    histograms: list[Array | None] = [None] * len(selections)
    lock = Lock()

    def count(index: int, vector: Array) -> None:
        prefix = selections[index].prefix
        for keys in _keys(vector):
            keys >>= shift
            if shift + bits < _ALL:
                keys -= prefix << bits
                keys = keys[(keys >= 0) & (keys < 1 << bits)]
            counts = arrays.bincount(keys)
            with lock:
                selections[index].wide |= vector.dtype.itemsize == 8
                total = histograms[index]
                if total is None:
                    total = histograms[index] = arrays.integers_like(counts, 1 << bits)
                total[: len(counts)] += counts

    for _ in vectors(count):
        pass
    return histograms


def _keys(vector: Array) -> Iterator[Array]:
    """|τ| in blocks, as integers of the same order: the bits of its float64 value."""
    flat = vector.reshape(-1)
    for start in range(0, len(flat), _BLOCK):
        yield arrays.float64_bits(flat[start : start + _BLOCK]) & ((1 << _ALL) - 1)


def _narrow(selection: _Selection, histogram: Array | None, bits: int) -> None:
    """Append to the prefix the digit in whose bin the element of the wanted rank lies."""
    selection.prefix <<= bits
    if histogram is None or selection.rank == 0:
        return
    low, high = 0, 1 << bits
    while high - low > 1:
        middle = (low + high) // 2
        upper = int(histogram[middle:high].sum())
        if selection.rank <= upper:
            low = middle
        else:
            high, selection.rank = middle, selection.rank - upper
    selection.prefix |= low
    selection.population = int(histogram[low])


def _selected(vectors: Vectors, selections: list[_Selection], shift: int) -> tuple[float, ...]:
    """One pass that collects the elements with each prefix: the one of the wanted rank."""
    found: list[list[Array]] = [[] for _ in selections]

    def collect(index: int, vector: Array) -> None:
        for keys in _keys(vector):
            # Of the few, the order does not matter; appending is atomic.
            found[index].append(keys[keys >> shift == selections[index].prefix])

    for _ in vectors(collect):
        pass
    return tuple(
        _magnitude(arrays.kth_largest(keys, selection.rank)) if selection.rank else 0.0
        for keys, selection in zip(found, selections, strict=True)
    )


def _magnitude(bits: int) -> float:
    """The float64 that ``bits`` are."""
    value: float = struct.unpack("<d", struct.pack("<q", bits))[0]
    return value
