"""TIES' election of signs, and the mean of those that agree (Yadav et al. 2023)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from gitmerge_eval.methods import _arrays as arrays
from gitmerge_eval.methods._sums import plain_sum
from gitmerge_eval.records import Groups, ParameterGroup

if TYPE_CHECKING:
    from gitmerge_eval.records import Array

MAJORITY_SIGN = "majority_sign"


def elected_mean(
    base: Array, vectors: Sequence[Array], scale: float, majority: float | None = None
) -> Array:
    """θ_p + λ · (mean of the v_i ≠ 0 whose sign is the elected one; 0 where there is none).

    Elected is sgn(Σ v_i) and, where that sum is 0, ``majority``, by default the group's:
    sgn(Σ sgn(Σ v_i)) over its elements.
    """
    if not vectors:
        return base
    elected = arrays.sign(plain_sum(vectors))
    leaning = _sign(_tally(elected)) if majority is None else majority
    elected = arrays.where(elected != 0, elected, leaning)
    # Σ |v_i| over the v_i that agree; the sign is put back at the end, which is exact.
    result, number = arrays.zeros_like(base), arrays.counters_like(base)
    for vector in vectors:
        agreeing = vector * elected
        number += agreeing > 0
        result += arrays.raise_to(agreeing, 0)
    result /= arrays.raise_to(number, 1)
    result *= elected
    result *= scale
    result += base
    return result


def majority_sign(
    groups: Groups, vectors: Callable[[ParameterGroup], Sequence[Array]]
) -> tuple[float, ...]:
    """sgn(Σ sgn(Σ v_i)) over all elements of the model, as one number."""

    def tally(group: ParameterGroup) -> int:
        found = vectors(group)
        return _tally(plain_sum(found)) if found else 0

    return (_sign(sum(groups(tally))),)


def _tally(values: Array) -> int:
    """The number of positive values less that of negative ones."""
    return arrays.count(values > 0) - arrays.count(values < 0)


def _sign(number: int) -> float:
    return float((number > 0) - (number < 0))
