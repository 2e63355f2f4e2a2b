"""What averages and sums of task vectors come to: a tensor, and how others differ from it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Differences:
    """θ = s·x_r + f · Σ c_i (x_i - x_r), added up in the order of the terms.

    It is what the operators in :mod:`gitmerge_eval.methods` compute, and on a processor a compiled
    loop with the same result.
    """

    reference: int | None
    """The position of x_r among the constituents; None is the base."""
    terms: tuple[tuple[int, float], ...]
    """(i, c_i)."""
    factor: float = 1.0
    whole: float = 1.0
    """s."""
