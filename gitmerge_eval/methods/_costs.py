"""Pieces of the cost formulas of arXiv 2409.18314, Table 3."""

from __future__ import annotations

import math
from fractions import Fraction


def logarithm_flops(factor: int, argument: Fraction | int) -> int:
    """⌊factor · ln(argument)⌋: a logarithm's term, rounded down to a whole FLOP.

    Nothing where the argument is 1 or less: sorting so few elements takes no comparison.

    >>> logarithm_flops(3, 1024 * 1024)
    41
    """
    return math.floor(factor * math.log(argument)) if argument > 1 else 0


def trimming_flops(size: int, models: int, density: float) -> int:
    """MK·dk + M·dk·ln K: trimming M task vectors of ``size`` = dk elements to their top K percent.

    K is a percentage, as Yadav et al. write it: a fraction would make the logarithm negative.

    >>> trimming_flops(100, 2, 0.2)
    4599
    """
    percentage = 100 * Fraction(str(density))
    return math.floor(models * percentage * size) + logarithm_flops(models * size, percentage)
