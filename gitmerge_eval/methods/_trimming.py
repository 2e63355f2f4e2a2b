"""Trimming task vectors to their largest elements, counted over the whole model.

The threshold is found by exact selection over streamed passes: a histogram of the leading bits of
|τ| narrows the threshold down to one bin, the next pass to one bin of that, until the elements of
that bin are few enough to be collected and sorted. Memory does not depend on the size of the model.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gitmerge_eval.methods._task_vectors import changed
from gitmerge_eval.records import Groups, ParameterGroup

if TYPE_CHECKING:
    from torch import Tensor

TaskVector = Callable[[ParameterGroup, int], "Tensor"]
"""The task vector of one constituent, by its position."""

TRIM_THRESHOLD = "trim_threshold"

# The 63 bits of a float64 without its sign. A float32 has all that it has in the first two digits.
# Two passes do for most models, and at most two for float32 and four for float64.
_DIGITS = (16, 18, 15, 14)
_FLOAT32_DIGITS = 2
_BLOCK = 1 << 18
_COLLECTED = 1 << 22


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


def trimmed(group: ParameterGroup, task_vector: TaskVector) -> tuple[Tensor, ...]:
    """The task vectors that are not zero, each cut to |τ| ≥ its ``trim_threshold``.

    A group without that scalar is not trimmed.
    """
    thresholds = group.scalars.get(TRIM_THRESHOLD)
    vectors = []
    for index in changed(group):
        vector = task_vector(group, index)
        if thresholds is not None:
            vector = vector.masked_fill(vector.abs() < thresholds[index], 0)
        vectors.append(vector)
    return tuple(vectors)


def trim_thresholds(
    groups: Groups, models: int, density: float, task_vector: TaskVector
) -> tuple[float, ...]:
    """For each constituent the k-th largest |τ_i| over all groups that it changed.

    k = max(1, ⌊density · n⌋) of the n elements of those groups; 0 where it changed none.
    """
    selections = [_Selection() for _ in range(models)]
    shift = sum(_DIGITS)
    for step, bits in enumerate(_DIGITS):
        if step == _FLOAT32_DIGITS and not any(selection.wide for selection in selections):
            break
        if step and all(selection.population <= _COLLECTED for selection in selections):
            return _sorted_out(groups, selections, task_vector, shift)
        above, shift = shift, shift - bits
        histograms = _histograms(groups, selections, task_vector, above, shift)
        for selection, histogram in zip(selections, histograms, strict=True):
            if step == 0:
                size = int(histogram.sum())
                selection.rank = min(size, max(1, math.floor(density * size)))
            _narrow(selection, histogram, bits)
    return tuple(_magnitude(selection.prefix << shift) for selection in selections)


def _histograms(
    groups: Groups, selections: list[_Selection], task_vector: TaskVector, above: int, shift: int
) -> list[Tensor]:
    """One pass: how many elements with the known prefix (bits from ``above`` upwards) have each
    value of the next digit (bits ``shift`` to ``above``)."""
    import torch

    bins = 1 << (above - shift)
    histograms = [torch.zeros(bins, dtype=torch.int64) for _ in selections]
    for group in groups():
        for index in changed(group):
            vector = task_vector(group, index)
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
    import torch

    flat = vector.reshape(-1)
    for start in range(0, flat.numel(), _BLOCK):
        yield flat[start : start + _BLOCK].double().abs_().view(torch.int64)


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


def _sorted_out(
    groups: Groups, selections: list[_Selection], task_vector: TaskVector, shift: int
) -> tuple[float, ...]:
    """One pass that collects the elements with each prefix: the one of the wanted rank."""
    import torch

    found: list[list[Tensor]] = [[] for _ in selections]
    for group in groups():
        for index in changed(group):
            prefix = selections[index].prefix
            for keys in _keys(task_vector(group, index)):
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
