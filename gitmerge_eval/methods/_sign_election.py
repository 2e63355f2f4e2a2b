"""TIES' election of signs, and the mean of those that agree (Yadav et al. 2023)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gitmerge_eval.methods import _arrays as arrays
from gitmerge_eval.methods._sums import added_at, plain_sum
from gitmerge_eval.methods._task_vectors import base_of
from gitmerge_eval.records import Groups, ParameterGroup, Scalar, ScalarNeeded

if TYPE_CHECKING:
    from gitmerge_eval.records import Array

MAJORITY_SIGN = "majority_sign"


def elected_mean(
    group: ParameterGroup, vectors: Sequence[Array], scales: Iterable[float]
) -> Iterator[Array]:
    """For each λ θ_p + λ · (mean of the v_i ≠ 0 whose sign is the elected one; 0 where none is).

    Elected is sgn(Σ v_i) and, where that sum is 0, the scalar ``majority_sign``, by default the
    group's: sgn(Σ sgn(Σ v_i)) over its elements. A tile raises ScalarNeeded where it needs it.
    """
    base = base_of(group)
    if not vectors:
        yield from added_at(base, None, scales)
        return
    elected = arrays.sign(plain_sum(vectors))
    elected = arrays.where(elected != 0, elected, _leaning(group, vectors, elected))
    # Σ |v_i| over the v_i that agree; the sign is put back at the end, which is exact.
    result, number = arrays.zeros_like(base), arrays.counters_like(base)
    for vector in vectors:
        agreeing = vector * elected
        number += agreeing > 0
        result += arrays.raise_to(agreeing, 0)
    result /= arrays.raise_to(number, 1)
    result *= elected
    yield from added_at(base, result, scales)


def majority_sign(vectors: Callable[[ParameterGroup], Sequence[Array]], scope: str) -> Scalar:
    """The scalar sgn(Σ sgn(Σ v_i)) over all elements of the model, or with the scope ``group`` of
    a group, where its votes are even somewhere: among floats that have not been rounded, hardly
    ever."""

    def tally(group: ParameterGroup) -> int:
        found = vectors(group)
        return _tally(plain_sum(found)) if found else 0

    def majority(groups: Groups, options: Mapping[str, Any]) -> tuple[float, ...]:
        return (_sign(sum(groups(tally))),)

    of_group = scope == "group"
    return Scalar(MAJORITY_SIGN, majority, per_group=of_group, on_demand=of_group)


def _leaning(group: ParameterGroup, vectors: Sequence[Array], elected: Array) -> float:
    """The sign that settles even votes; 0 for a tile in which only zeros are without a sign."""
    if known := group.scalars.get(MAJORITY_SIGN):
        return known[0]
    if group.positions is None:
        return _sign(_tally(elected))
    undecided = elected == 0
    if any(arrays.count(undecided & (vector != 0)) for vector in vectors):
        raise ScalarNeeded(MAJORITY_SIGN)
    return 0.0


def _tally(values: Array) -> int:
    """The number of positive values less that of negative ones."""
    return arrays.count(values > 0) - arrays.count(values < 0)


def _sign(number: int) -> float:
    return float((number > 0) - (number < 0))
