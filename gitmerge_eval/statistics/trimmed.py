"""The trimmed task vector: τ = θ - θ_p with all but its largest magnitudes set to zero.

Yadav et al. 2023 (arXiv 2306.01708), step 'trim', over the whole model: of the n elements of the
groups that differ from the base, those with |τ| at least the k-th largest stay, k = max(1,
floor(density · n)); elements equal to the threshold all stay.

The threshold is found by exact selection over streamed passes: a histogram of the leading bits of
|τ| narrows the threshold down to one bin, the next pass to one bin of that, until the elements of
that bin are few enough to be collected and sorted. Memory does not depend on the size of the model.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from gitmerge_eval.records import Statistic

STATISTIC = Statistic(
    name="trimmed",
    title="trimmed task vector",
    reference="Yadav et al. 2023, arXiv 2306.01708",
    needs_data=False,
    combine_exact_for=(),
    options=("density",),
)

Pairs = Callable[[], Iterator[tuple[str, Tensor, Tensor]]]
"""Starts a pass over (group name, base, constituent); integer groups may be among them."""

Vectors = Callable[[], Iterator[tuple[int, Tensor]]]
"""Starts a pass over (position of the constituent, its task vector in one group)."""

# The 63 bits of a float64 without its sign. A float32 has all that it has in the first two digits.
# Two passes do for most models, and at most two for float32 and four for float64.
_DIGITS = (16, 18, 15, 14)
_FLOAT32_DIGITS = 2
_BLOCK = 1 << 18
_COLLECTED = 1 << 22


def trim(pairs: Pairs, density: float) -> dict[str, Tensor]:
    """The trimmed task vector by group name: dense, zero where trimmed, shapes the groups'.

    Which elements stay is decided in float64, as TIES does without this statistic; the values are
    float32, of a float64 group float64.
    """

    def vectors() -> Iterator[tuple[int, Tensor]]:
        return ((0, vector) for _, vector, _ in _task_vectors(pairs))

    (least,) = thresholds(vectors, 1, density)
    return {
        name: vector.masked_fill(vector.abs() < least, 0).to(dtype)
        for name, vector, dtype in _task_vectors(pairs)
    }


def thresholds(vectors: Vectors, models: int, density: float) -> tuple[float, ...]:
    """For each of the constituents 0 to models - 1 the k-th largest |τ|, exactly.

    k = max(1, ⌊density · n⌋) of the n elements that a pass has for that constituent; 0 where it has
    none. At most two passes for float32, four for float64; every pass must yield the same.
    """
    selections = [_Selection() for _ in range(models)]
    shift = sum(_DIGITS)
    for step, bits in enumerate(_DIGITS):
        if step == _FLOAT32_DIGITS and not any(selection.wide for selection in selections):
            break
        if step and all(selection.population <= _COLLECTED for selection in selections):
            return _sorted_out(vectors, selections, shift)
        above, shift = shift, shift - bits
        histograms = _histograms(vectors, selections, above, shift)
        for selection, histogram in zip(selections, histograms, strict=True):
            if step == 0:
                size = int(histogram.sum())
                selection.rank = min(size, max(1, math.floor(density * size)))
            _narrow(selection, histogram, bits)
    return tuple(_magnitude(selection.prefix << shift) for selection in selections)


def _task_vectors(pairs: Pairs) -> Iterator[tuple[str, Tensor, torch.dtype]]:
    """(name, θ - θ_p in float64, the dtype to store it in) of each floating-point group that
    differs from its base."""
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
    vectors: Vectors, selections: list[_Selection], above: int, shift: int
) -> list[Tensor]:
    """One pass: how many elements with the known prefix (bits from ``above`` upwards) have each
    value of the next digit (bits ``shift`` to ``above``)."""
    bins = 1 << (above - shift)
    histograms = [torch.zeros(bins, dtype=torch.int64) for _ in selections]
    for index, vector in vectors():
        selection = selections[index]
        selection.wide |= vector.dtype == torch.float64
        counts = torch.zeros(bins, dtype=torch.int64, device=vector.device)
        for keys in _keys(vector):
            digits = (keys >> shift).sub_(selection.prefix << (above - shift))
            if above < sum(_DIGITS):
                digits = digits[(digits >= 0) & (digits < bins)]
            counts += torch.bincount(digits, minlength=bins)
        histograms[index] += counts.to(histograms[index].device)
    return histograms


def _keys(vector: Tensor) -> Iterator[Tensor]:
    """|τ| in blocks, as integers of the same order: the bits of its float64 value."""
    flat = vector.detach().reshape(-1)
    for start in range(0, flat.numel(), _BLOCK):
        # Not in place: a float64 block is a view of the caller's vector.
        yield flat[start : start + _BLOCK].double().abs().view(torch.int64)


def _narrow(selection: _Selection, histogram: Tensor, bits: int) -> None:
    """Append to the prefix the digit in whose bin the element of the wanted rank lies."""
    selection.prefix <<= bits
    if selection.rank == 0:
        return
    at_least = histogram.flip(0).cumsum(0)
    place = int((at_least < selection.rank).sum())
    if place:
        selection.rank -= int(at_least[place - 1])
    digit = len(histogram) - 1 - place
    selection.prefix |= digit
    selection.population = int(histogram[digit])


def _sorted_out(vectors: Vectors, selections: list[_Selection], shift: int) -> tuple[float, ...]:
    """One pass that collects the elements with each prefix: the one of the wanted rank."""
    found: list[list[Tensor]] = [[] for _ in selections]
    for index, vector in vectors():
        prefix = selections[index].prefix
        for keys in _keys(vector):
            found[index].append(keys[(keys >> shift) == prefix].cpu())
    return tuple(
        _magnitude(int(torch.cat(keys).sort(descending=True).values[selection.rank - 1]))
        if selection.rank
        else 0.0
        for keys, selection in zip(found, selections, strict=True)
    )


def _magnitude(bits: int) -> float:
    """The float64 that ``bits`` are."""
    value: float = struct.unpack("<d", struct.pack("<q", bits))[0]
    return value
