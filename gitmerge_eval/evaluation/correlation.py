"""How far held-in scores tell generalization scores, over methods."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

FEWEST = 3
"""With two points r is 1 or -1 whatever they are."""


@dataclass(frozen=True)
class Correlation:
    """Pearson's r over ``n`` pairs, and the two-sided p of no correlation."""

    r: float
    p: float
    n: int

    def __str__(self) -> str:
        """``r = 0.871, p = 0.00226 (n = 9)``."""
        return f"r = {three_digits(self.r)}, p = {three_digits(self.p)} (n = {self.n})"


def pearson(pairs: Iterable[tuple[float, float]]) -> Correlation | None:
    """r = Σ(x-x̄)(y-ȳ) / √(Σ(x-x̄)² Σ(y-ȳ)²), and p of t = r √((n-2) / (1-r²)) with n-2 degrees.

    None where it is not defined: fewer than three pairs, or all values of one side equal.

    >>> str(pearson([(1.0, 2.0), (2.0, 4.5), (3.0, 5.0), (4.0, 8.5)]))
    'r = 0.964, p = 0.0355 (n = 4)'
    """
    points = list(pairs)
    if len(points) < FEWEST:
        return None
    first, second = zip(*points, strict=True)
    if len(set(first)) == 1 or len(set(second)) == 1:
        return None
    # Only here: scipy.stats takes a second to import.
    from scipy.stats import pearsonr

    found = pearsonr(first, second)
    return Correlation(float(found.statistic), float(found.pvalue), len(points))


def three_digits(value: float) -> str:
    """``value`` with three significant digits, trailing zeros kept.

    >>> three_digits(0.5), three_digits(0.000012345)
    ('0.500', '1.23e-05')
    """
    return f"{value:#.3g}"
