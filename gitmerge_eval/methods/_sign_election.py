"""TIES' election of signs, and the mean of those that agree (Yadav et al. 2023)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from gitmerge_eval.methods._sums import plain_sum
from gitmerge_eval.records import Groups, ParameterGroup

if TYPE_CHECKING:
    from torch import Tensor

MAJORITY_SIGN = "majority_sign"


def elected_mean(
    base: Tensor, vectors: Sequence[Tensor], scale: float, majority: float | None = None
) -> Tensor:
    """θ_p + λ · (mean of the v_i ≠ 0 whose sign is the elected one; 0 where there is none).

    Elected is sgn(Σ v_i) and, where that sum is 0, ``majority``, by default the group's:
    sgn(Σ sgn(Σ v_i)) over its elements.
    """
    if not vectors:
        return base
    elected = plain_sum(vectors).sign_()
    leaning = _tally(elected).sign() if majority is None else majority
    elected = elected.where(elected != 0, leaning)
    total = count = None
    for vector in vectors:
        agrees = (vector.sign() == elected).logical_and_(vector != 0)
        part, one = vector.masked_fill(~agrees, 0), agrees.to(base.dtype)
        total = part if total is None else total.add_(part)
        count = one if count is None else count.add_(one)
    assert total is not None
    assert count is not None
    return total.div_(count.clamp_(min=1)).mul_(scale).add_(base)


def majority_sign(
    groups: Groups, vectors: Callable[[ParameterGroup], Sequence[Tensor]]
) -> tuple[float, ...]:
    """sgn(Σ sgn(Σ v_i)) over all elements of the model, as one number."""
    total = 0
    for group in groups():
        found = vectors(group)
        if found:
            total += int(_tally(plain_sum(found).sign_()))
    return (float((total > 0) - (total < 0)),)


def _tally(signs: Tensor) -> Tensor:
    """The number of pluses less that of minuses, counted in integers."""
    import torch

    return signs.sum(dtype=torch.int64)
